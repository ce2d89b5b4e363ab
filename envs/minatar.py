"""What the five MinAtar games share: a 10 × 10 board seen as channels, sticky actions, drawing.

A game is a batch of boards `[env, 10, 10, channel]` of bool, y (downwards) before x, equal step by step to the package
`minatar` 1.0.15, given the same random choices. The ids that it registers with gymnasium, `MinAtar/<Game>-v1`, take the
minimal action set, which is the default here too (`minimal_actions=False` is their `-v0`, all six actions). They have
no time limit, so that there is none here.

Differs in one thing: an episode starts with "do nothing" as its last action, as the package's first one does; the
package carries the last action over from the episode before.

Reference: Young & Tian 2019, "MinAtar: An Atari-inspired testbed for thorough and reproducible reinforcement learning
experiments", arXiv:1903.03176; sticky actions: Machado et al. 2018, arXiv:1709.06009. Written from the rules.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gumbelrl.envs.drawing import Canvas, Colour, Point
from gumbelrl.envs.native import NativeEnv

SIZE = 10  # rows and columns of the board
ACTIONS = ("noop", "left", "up", "right", "down", "fire")

_CELL = 32  # pixels
_LEGEND = 22  # pixels a line
_NIGHT: Colour = (12, 12, 16)
_LINES: Colour = (28, 28, 36)
_WORDS: Colour = (214, 214, 220)
_DISCS = ("ball", "chicken", "player")  # channels drawn round

GameState = dict[str, Tensor]


class MinAtarGame(NativeEnv[GameState]):
    """The frame of a game: a subclass names its channels and actions, and writes `new_game`, `play` and `observe`.

    Args:
        num_envs: how many.
        sticky_action_prob: of repeating the action before instead of the chosen one, in every step.
        difficulty_ramping: whether a game gets harder with time; Breakout and Freeway never do.
        minimal_actions: offer only the actions that do something, else all six, `ACTIONS`.
        device: where the tensors are.

    Attributes:
        channels: names, in the order of the last axis of an observation; those called `trail` or `speed…` show where
            something comes from.
        symbols: a letter a channel for `describe`; where several are in a cell, the first shows.
        useful_actions: the names of the minimal action set, in the order of `ACTIONS`.
        num_random: uniform numbers that `new_game` takes.
        num_play_random: uniform numbers that `play` takes.
        action_names: of the choices.
    """

    channels: tuple[str, ...]
    symbols: str
    useful_actions: tuple[str, ...]
    num_play_random: int = 0

    def __init__(
        self,
        num_envs: int,
        *,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        minimal_actions: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        if not 0.0 <= sticky_action_prob <= 1.0:
            raise ValueError(f"sticky_action_prob is a probability, from 0 to 1, got {sticky_action_prob}")
        self.sticky_action_prob, self.difficulty_ramping = sticky_action_prob, difficulty_ramping
        self.action_names = self.useful_actions if minimal_actions else ACTIONS
        self.num_step_random = 1 + self.num_play_random
        self.single_observation_space = spaces.Box(0, 1, (SIZE, SIZE, len(self.channels)), dtype=np.bool_)
        self.single_action_space = spaces.Discrete(len(self.action_names))
        self._everywhere = torch.ones(num_envs, SIZE * SIZE, dtype=torch.bool, device=self.device)
        self._nothing = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    # A game ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def new_game(self, noise: Float[Tensor, "env random"]) -> GameState:
        """Return the state that an episode starts in, without `last_action`, from `num_random` uniform numbers."""

    @abstractmethod
    def play(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env random"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        """Return the next state, without `last_action`, the reward (float32) and whether the game is over.

        Args:
            state: of every game.
            action: the choice that is carried out, after stickiness.
            noise: `num_play_random` uniform numbers in (0, 1).
        """

    def per_action(self, **values: int) -> Int[Tensor, " choice"]:
        """Return a look-up table of a number for each choice, int64: the one given under its name, else 0."""
        return torch.tensor([values.get(name, 0) for name in self.action_names], device=self.device)

    def board(
        self, *things: tuple[Int[Tensor, "env place"], Bool[Tensor, "env place"] | None]
    ) -> Bool[Tensor, "env 10 10 channel"]:
        """Return boards, empty but for things at places of a flat board; where they are seen, None for everywhere."""
        count, cells, everywhere = self.num_envs, SIZE * SIZE * len(self.channels), self._everywhere
        board = torch.zeros(count, cells, dtype=torch.uint8, device=self.device)
        if self.tracing:  # one loop a kind, into which the computation of the places is drawn
            row = torch.arange(count, device=self.device).unsqueeze(1)
            for places, seen in things:
                marks = torch.ones_like(places) if seen is None else seen
                board.index_put_((row, places), marks.to(torch.uint8))
        else:  # one call, which is faster with a tensor than with a number
            seens = [everywhere[:, : places.shape[1]] if seen is None else seen for places, seen in things]
            places = torch.cat([places for places, _ in things], dim=1)
            board.scatter_(1, places, torch.cat(seens, dim=1).view(torch.uint8))
        return board.view(count, SIZE, SIZE, len(self.channels)).view(torch.bool)

    # Shared rules ---------------------------------------------------------------------------------------------------

    def initial_state(self, noise: Float[Tensor, "env random"]) -> GameState:
        return {**self.new_game(noise), "last_action": torch.zeros_like(self._nothing)}

    def transition(
        self, state: GameState, action: Int[Tensor, " env"], noise: Float[Tensor, "env random"]
    ) -> tuple[GameState, Float[Tensor, " env"], Bool[Tensor, " env"]]:
        action = torch.where(noise[:, 0] < self.sticky_action_prob, state["last_action"], action)
        state, reward, terminated = self.play(state, action, noise[:, 1:])
        return {**state, "last_action": action}, reward, terminated

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Return the board, trails as dots, and a legend."""
        board = self.observe(self.state)[row].cpu().numpy()
        colours = cubehelix(len(self.channels))
        names = self.channels
        lines = -(-len(names) // 3)
        canvas = Canvas(SIZE * _CELL, SIZE * _CELL + lines * _LEGEND + 10, _NIGHT)
        for line in range(SIZE + 1):
            canvas.line([(line * _CELL, 0), (line * _CELL, SIZE * _CELL)], _LINES, width=1)
            canvas.line([(0, line * _CELL), (SIZE * _CELL, line * _CELL)], _LINES, width=1)
        for channel in reversed(range(len(names))):  # the first, the player, on top
            for y, x in np.argwhere(board[:, :, channel]):
                centre = ((x + 0.5) * _CELL, (y + 0.5) * _CELL)
                _draw_thing(canvas, centre, names[channel], colours[channel])
        for channel, name in enumerate(names):
            left, middle = 10.0 + channel % 3 * 104, SIZE * _CELL + 16.0 + channel // 3 * _LEGEND
            canvas.rectangle(
                left, middle - 6, left + 12, middle + 6, colours[channel], radius=6 if name in _DISCS else 3
            )
            canvas.text((left + 18, middle), name.replace("_", " "), _WORDS, size=12, anchor="lm")
        return canvas.array()

    def describe(self, row: int) -> str:
        board = self.observe(self.state)[row].cpu().numpy()
        shown = np.where(board.any(-1), board.argmax(-1), len(self.channels))
        lines = ["".join((self.symbols + ".")[channel] for channel in line) for line in shown]
        legend = ", ".join(f"{letter} {name}" for letter, name in zip(self.symbols, self.channels, strict=True))
        return "\n".join([*lines, legend])


def _draw_thing(canvas: Canvas, centre: Point, channel: str, colour: Colour) -> None:
    if channel in _DISCS:
        canvas.circle(centre, _CELL / 2 - 2, colour)
    elif channel == "trail" or channel.startswith("speed"):
        canvas.circle(centre, 5, colour)
    else:
        (x, y), half, height = centre, _CELL / 2 - 2, 6 if channel == "paddle" else _CELL / 2 - 2
        canvas.rectangle(x - half, y - height, x + half, y + height, colour, radius=4)


def cubehelix(count: int) -> list[Colour]:
    """Return `count` colours of evenly falling brightness: the package's palette, the other way round and brighter.

    Reference: Green 2011, "A colour scheme for the display of astronomical intensity images", with its standard start,
    turns and saturation.
    """
    colours = []
    for index in range(count):
        light = 0.92 - 0.54 * index / max(count - 1, 1)
        angle, reach = 2.0 * math.pi * (0.5 / 3.0 - 1.5 * light), light * (1.0 - light) / 2.0
        cos, sin = math.cos(angle), math.sin(angle)
        red = light + reach * (-0.14861 * cos + 1.78277 * sin)
        green = light + reach * (-0.29227 * cos - 0.90649 * sin)
        blue = light + reach * (1.97294 * cos)
        red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in (red, green, blue))
        colours.append((red, green, blue))
    return colours
