"""Taxi-v4: fetch a passenger and bring them where they want to go.

From Dietterich 2000, as gymnasium has it, whose transition table this equals entry by entry, in the rain too:

    +---------+      The taxi starts anywhere, the passenger at one of R, G, Y and B, to go to another of them.
    |R: | : :G|      Each action costs 1; a pick-up or drop-off that is not possible costs 10; the right drop-off
    | : | : : |      pays 20 and ends the episode. A drop-off at another of the four places lets the passenger out.
    | : : : : |      Walls (|) hold. In the rain, a move that is not blocked goes astray to either side with
    | | : | : |      probability (1 - `rainy_probability`) / 2. A fickle passenger changes destination, to any of the
    |Y| : |B: |      other three, on the first move after the first pick-up, with probability `fickle_probability`.
    +---------+

gymnasium decides at the reset, unseen, whether the passenger will change destination; here it is decided when it
matters, which gives the same distribution, and a plan made over the table cannot peek.

gymnasium's `action_mask` is advice: it marks the actions that change the state, and the others are still carried out.
Here a mask is a rule, which agents keep to and checks enforce, so that there is none unless `action_masks` asks for it.

Taxi-v3, which gymnasium has dropped, differs where it rains or the passenger is fickle, and is not taken for this one.

Optimum within the 200 steps, by dynamic programming: 7.93, the mean over the 300 starts; 3.95 in the rain; 8.38 with a
fickle passenger, who may ask to be taken back, which is near; 4.58 with both.

What it separates: exploration and credit over subgoals, as random play returns -771 and delivers in 4.7% of episodes;
and what agents make of masks, as random play among the actions that change the state returns -186.

Reference: Dietterich 2000, "Hierarchical reinforcement learning with the MAXQ value function decomposition".
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Int, UInt8
from torch import Tensor

from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, PURPLE, RED, YELLOW, Canvas
from gumbelrl.envs.tabular import Outcome, TabularEnv, TransitionTable

SIZE = 5
NUM_OBSERVATIONS = 500
PLACES = ((0, 0), (0, 4), (4, 0), (4, 3))
NAMES = "RGYB"
COLOURS = (RED, GREEN, YELLOW, BLUE)
ABOARD = 4  # where the passenger is, next to the four places
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # rows and columns: south, north, east, west
SIDES = ((2, 3), (3, 2), (1, 0), (0, 1))  # to the left and right of each move
WALLED = frozenset({(0, 1), (1, 1), (3, 0), (3, 2), (4, 0), (4, 2)})  # a wall on the east side
PICK_UP, DROP_OFF = 4, 5
CELL, MARGIN = 80, 10  # pixels


class Taxi(TabularEnv):
    """Observation: ((row · 5 + column) · 5 + passenger) · 4 + destination; passenger 4 is aboard.

    State: the observation; with a fickle passenger who may still change destination, 500 more.

    Actions: south, north, east, west, pick up, drop off.

    Args:
        is_rainy: whether moves go astray.
        fickle_passenger: whether the passenger may change destination.
        rainy_probability: that a move in the rain goes where it was meant to.
        fickle_probability: that a fickle passenger changes destination.
        action_masks: allow only actions that change the state.
    """

    max_episode_steps = 200

    def __init__(
        self,
        num_envs: int,
        *,
        is_rainy: bool = False,
        fickle_passenger: bool = False,
        rainy_probability: float = 0.8,
        fickle_probability: float = 0.3,
        action_masks: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("rainy_probability", rainy_probability), ("fickle_probability", fickle_probability)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")
        rain = rainy_probability if is_rainy else None
        fickle = fickle_probability if fickle_passenger else None
        super().__init__(num_envs, table=taxi_table(rain, fickle, action_masks), device=device)
        self.single_observation_space = spaces.Discrete(NUM_OBSERVATIONS)

    def observe(self, state: Int[Tensor, " env"]) -> Int[Tensor, " env"]:
        return state if self.table.num_states == NUM_OBSERVATIONS else state % NUM_OBSERVATIONS

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        y, x, passenger, destination = decode(int(self.state[row]) % NUM_OBSERVATIONS)
        side = SIZE * CELL + 2 * MARGIN
        canvas = Canvas(side, side + 40)
        canvas.rectangle(0, 0, side, side, INK)
        canvas.rectangle(MARGIN, MARGIN, side - MARGIN, side - MARGIN, FAINT)
        for index, ((down, right), name, colour) in enumerate(zip(PLACES, NAMES, COLOURS, strict=True)):
            left, top = MARGIN + right * CELL, MARGIN + down * CELL
            canvas.rectangle(left + 4, top + 4, left + CELL - 4, top + CELL - 4, colour, radius=6)
            if index == destination:
                canvas.rectangle(left + 11, top + 11, left + CELL - 11, top + CELL - 11, FAINT, radius=4)
            canvas.text((left + 20, top + 22), name, INK, size=18)
        for down, right in WALLED:
            edge, top = MARGIN + (right + 1) * CELL, MARGIN + down * CELL
            canvas.line([(edge, top), (edge, top + CELL)], INK, width=8)
        left, top = MARGIN + x * CELL, MARGIN + y * CELL
        canvas.rectangle(left + 16, top + 32, left + CELL - 16, top + CELL - 16, INK, radius=9)
        canvas.text((left + CELL / 2, top + CELL - 32), "taxi", FAINT, size=15)
        where = (y, x) if passenger == ABOARD else PLACES[passenger]
        at = (MARGIN + where[1] * CELL + CELL - 24, MARGIN + where[0] * CELL + 24)
        canvas.circle(at, 11, PURPLE, outline=INK, width=2)
        canvas.text((side / 2, side + 20), f"passenger {_at(passenger)}, to {NAMES[destination]}", INK, size=18)
        return canvas.array()

    def describe(self, row: int) -> str:
        """Return the map, T where the taxi is, and a line on the passenger."""
        y, x, passenger, destination = decode(int(self.state[row]) % NUM_OBSERVATIONS)
        letters = dict(zip(PLACES, NAMES, strict=True)) | {(y, x): "T"}
        walls = {place: "|" if place in WALLED else ":" for place in np.ndindex(SIZE, SIZE)}
        cells = [[letters.get((r, c), " ") + walls[r, c] for c in range(SIZE)] for r in range(SIZE)]
        lines = ["|" + "".join(line)[:-1] + "|" for line in cells]
        return "\n".join([*lines, f"passenger {_at(passenger)}, to {NAMES[destination]}"])


def encode(row: int, column: int, passenger: int, destination: int) -> int:
    """Return the observation."""
    return ((row * SIZE + column) * 5 + passenger) * 4 + destination


def decode(observation: int) -> tuple[int, int, int, int]:
    """Return row, column, passenger and destination."""
    rest, destination = divmod(observation, 4)
    place, passenger = divmod(rest, 5)
    return *divmod(place, SIZE), passenger, destination


@cache
def taxi_table(rain: float | None, fickle: float | None, action_masks: bool) -> TransitionTable:
    """Return the rules; `rain` is the probability of a straight move, `fickle` of a change of mind, None is never."""
    states = [decode(observation) for observation in range(NUM_OBSERVATIONS)]
    outcomes = [[_outcomes(*state, action, rain) for action in range(6)] for state in states]
    starts = np.array([passenger not in (ABOARD, destination) for _, _, passenger, destination in states], dtype=float)
    valid = torch.tensor([_changing(*state) for state in states]) if action_masks else None
    table = TransitionTable.from_outcomes(outcomes, starts / starts.sum(), valid=valid)
    return table if fickle is None else _with_fickle_passenger(table, fickle)


def _outcomes(
    row: int, column: int, passenger: int, destination: int, action: int, rain: float | None
) -> list[Outcome]:
    here, reward, terminated = (row, column), -1.0, False
    if action < PICK_UP:
        ahead = _moved(row, column, action)
        if rain is None:
            ways = [(1.0, ahead)]
        else:  # where the way ahead is blocked, the taxi does not drift either
            sides = [here if ahead == here else _moved(row, column, side) for side in SIDES[action]]
            ways = [(rain, ahead), *(((1.0 - rain) / 2.0, side) for side in sides)]
        return [(chance, encode(*place, passenger, destination), reward, terminated) for chance, place in ways]
    if action == PICK_UP and passenger != ABOARD and here == PLACES[passenger]:
        passenger = ABOARD
    elif action == DROP_OFF and passenger == ABOARD and here in PLACES:
        passenger = PLACES.index(here)
        terminated = passenger == destination
        reward = 20.0 if terminated else -1.0
    else:
        reward = -10.0
    return [(1.0, encode(row, column, passenger, destination), reward, terminated)]


def _moved(row: int, column: int, direction: int) -> tuple[int, int]:
    down, right = MOVES[direction]
    if (row, min(column, column + right)) in WALLED and right:
        return row, column
    return min(max(row + down, 0), SIZE - 1), min(max(column + right, 0), SIZE - 1)


def _changing(row: int, column: int, passenger: int, destination: int) -> list[bool]:
    """Return which actions change the state, gymnasium's `action_mask`."""
    moving = [_moved(row, column, direction) != (row, column) for direction in range(4)]
    here = (row, column)
    waiting = passenger != ABOARD and here == PLACES[passenger]
    return [*moving, waiting, passenger == ABOARD and here in PLACES]


def _with_fickle_passenger(table: TransitionTable, change: float) -> TransitionTable:
    """Return the table with a second copy of each state, in which the passenger may still change destination.

    A move with the passenger aboard leads from it to the first copy, with the old destination or one of the others.
    """
    next_state, place = table.next_state.unsqueeze(-1), torch.arange(NUM_OBSERVATIONS).view(-1, 1, 1, 1) // 20
    aboard = torch.arange(NUM_OBSERVATIONS).view(-1, 1, 1, 1) // 4 % 5 == ABOARD
    moved = aboard & (next_state // 20 != place)
    turn = torch.arange(4)  # by how far the destination is turned on; 0 keeps it
    turned = next_state // 4 * 4 + (next_state + turn) % 4
    kept = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    mind = torch.tensor([1.0 - change, *[change / 3.0] * 3], dtype=torch.float64)
    probability = table.probability.unsqueeze(-1)

    def copies(decided: Tensor, undecided: Tensor) -> Tensor:
        shape = (*table.next_state.shape, 4)
        return torch.cat((decided.expand(shape), undecided.expand(shape))).flatten(2)

    reward, terminated = table.reward.unsqueeze(-1), table.terminated.unsqueeze(-1)
    return TransitionTable(
        next_state=copies(next_state, torch.where(moved, turned, next_state + NUM_OBSERVATIONS)),
        probability=copies(probability * kept, probability * torch.where(moved, mind, kept)),
        reward=copies(reward, reward),
        terminated=copies(terminated, terminated),
        initial=torch.cat((torch.zeros_like(table.initial), table.initial)),
        valid=None if table.valid is None else torch.cat((table.valid, table.valid)),
    )


def _at(passenger: int) -> str:
    return "aboard" if passenger == ABOARD else f"at {NAMES[passenger]}"
