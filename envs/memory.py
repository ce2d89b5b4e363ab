"""Memory: a symbol is shown once; after a delay, name it.

An episode has delay + 1 steps. The first observation shows the cue, one of `num_cues` symbols, drawn uniformly. Actions
have no effect during the delay. The action of the last step earns 1 where it names the cue, else 0, and ends the
episode. With `distractors` a random symbol is shown at each step between the first and the last, unmarked, so that it
does not do to remember the latest symbol. A delay of 0 asks at once: the control that needs no memory.

Observation: float32 `[2 + num_cues]`: the fraction of the delay that is left (1 at first, 0 when the choice is due),
whether the symbol shown is the cue, and the symbol shown, one-hot; zeros where none is.

What it separates: agents with memory from those without, by the length of the delay. Of the estimators nothing that a
bandit would not: one choice in an episode counts, and its reward follows at once.

Optimum: a policy that remembers returns 1. One that sees the current observation alone (delay above 0) returns
1/num_cues whatever it does, for the cue is independent of all that is seen when the choice is due. `optimal_return` is
the former, `memoryless_return` the latter. `optimal_probs` reads the hidden cue.

Source: `memory_len` of bsuite (Osband et al. 2020, "Behaviour suite for reinforcement learning", arXiv:1908.03568),
the T-maze of Bakker 2001, "Reinforcement learning with long short-term memory", with the walk taken out. As there, the
time left is seen and the cue is seen at first. Differs from bsuite: a wrong choice earns 0 rather than −1, so that the
return is the rate of right choices; any number of symbols rather than ±1 for two; the cue is marked; its code shows
the first observation twice (after `reset` and after the first step), which is left out. From Bakker: moving costs and
earns nothing (there −.1 for standing still, 4 for the right turn).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BACKGROUND, FAINT, INK, PALETTE, Canvas, Colour
from gumbelrl.envs.native import NativeEnv

CUE, TIME, SHOWN = 0, 1, 2  # columns of the state


class Memory(NativeEnv[Tensor]):
    """Name, after a delay, the symbol that was shown at first; see the module's docstring.

    The state is int64 `[env, 3]`: the cue, the steps made, and the symbol shown (`num_cues` where none is).

    Args:
        delay: steps between the cue and the choice, at least 0; bsuite's experiments go from 1 to 100.
        num_cues: symbols, at least 2.
        distractors: show random symbols during the delay.

    Attributes:
        memoryless_return: expected return of every policy that sees the current observation alone.

    Raises:
        ValueError: an option is out of its range.
    """

    num_random = 1
    optimal_return = 1.0

    def __init__(
        self,
        num_envs: int,
        *,
        delay: int = 10,
        num_cues: int = 2,
        distractors: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        if delay < 0:
            raise ValueError(f"delay is a number of steps, at least 0, got {delay}")
        if num_cues < 2:
            raise ValueError(f"num_cues must be at least 2, or there is nothing to remember, got {num_cues}")
        self.delay, self.num_cues, self.distractors = delay, num_cues, distractors
        self.num_step_random = int(distractors and delay > 1)
        self.memoryless_return = 1.0 / num_cues if delay else 1.0
        self.single_observation_space = spaces.Box(0.0, 1.0, (2 + num_cues,), np.float32)
        self.single_action_space = spaces.Discrete(num_cues)
        # What is seen is two look-ups: by the time, and by the symbol. Time delay + 1 is the end.
        clock = torch.zeros(delay + 2, 2)
        clock[:-1, 0] = torch.linspace(1.0, 0.0, delay + 1) if delay else torch.zeros(1)
        clock[0, 1] = 1.0
        self._clock = clock.to(self.device)
        self._symbols = torch.eye(num_cues + 1, num_cues, device=self.device)
        self._none = torch.full((num_envs,), num_cues, device=self.device)

    def initial_state(self, noise: Float[Tensor, "env 1"]) -> Int[Tensor, "env 3"]:
        cue = self._symbol(noise)
        return torch.cat((cue, torch.zeros_like(cue), cue), dim=1)

    def transition(
        self, state: Int[Tensor, "env 3"], action: Int[Tensor, " env"], noise: Float[Tensor, "env random"]
    ) -> tuple[Int[Tensor, "env 3"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        cue, time, _ = state.unbind(1)
        terminated = time >= self.delay
        reward = ((action == cue) & terminated).to(torch.float32)
        time, shown = time + 1, self._none
        if self.num_step_random:
            shown = torch.where(time < self.delay, self._symbol(noise)[:, 0], self._none)
        return torch.stack((cue, time, shown), dim=1), reward, terminated

    def observe(self, state: Int[Tensor, "env 3"]) -> Float[Tensor, "env column"]:
        # A look-up by index_select is several times as fast as by brackets.
        clock = self._clock.index_select(0, state[:, TIME])
        return torch.cat((clock, self._symbols.index_select(0, state[:, SHOWN])), dim=1)

    def _symbol(self, noise: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        # The largest uniform number times num_cues may round up to num_cues.
        return (noise * self.num_cues).to(torch.int64).clamp_max(self.num_cues - 1)

    def optimal_probs(self) -> Float[Tensor, "env 1 symbol"]:
        """Return the naming of the hidden cue, at every step though only the last one counts."""
        return functional.one_hot(self.state[:, CUE], self.num_cues).float().unsqueeze(1)

    # Pictures -------------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> np.ndarray:
        """Return a corridor from the cue to the doors; the symbol now seen is above the walker."""
        cue, time, shown = (int(x) for x in self.state[row])
        canvas, y, start, junction = Canvas(640, 300), 170.0, 70.0, 500.0
        canvas.rectangle(start - 34, y - 24, junction + 24, y + 24, FAINT, radius=8)
        canvas.rectangle(junction - 24, 40, junction + 24, 276, FAINT, radius=8)
        step = 276 / (self.num_cues + 1)
        radius = min(20.0, step * 0.42)
        for symbol in range(self.num_cues):
            door = (junction + 70, 24 + step * (symbol + 1))
            canvas.line([(junction, door[1]), door], FAINT, width=max(4, radius))
            _draw_symbol(canvas, door, radius, symbol)
        x = start + (junction - start) * min(1.0, time / max(1, self.delay))
        canvas.circle((x, y), 14, INK)
        canvas.circle((x, y), 6, BACKGROUND)
        if shown < self.num_cues:
            canvas.line([(x, y - 16), (x, y - 58)], INK, width=3)
            _draw_symbol(canvas, (x, y - 76), 20, shown)
            canvas.text((x, y - 108), "cue" if time == 0 else "distractor", INK, size=14)
        canvas.text((start - 34, 24), f"step {min(time, self.delay)} of {self.delay}", INK, size=15, anchor="lm")
        canvas.text((start - 34, 256), "hidden cue", INK, size=14, anchor="lm")
        _draw_symbol(canvas, (start + 66, 256), 14, cue)
        if time == self.delay:
            canvas.text((junction - 44, y + 44), "choose", INK, size=15, anchor="rm")
        return canvas.array()

    def describe(self, row: int) -> str:
        cue, time, shown = (int(x) for x in self.state[row])
        seen = "nothing" if shown >= self.num_cues else f"{'cue' if time == 0 else 'distractor'} {shown}"
        due = "choose now" if time == self.delay else f"{max(0, self.delay - time)} steps to the choice"
        return f"sees {seen}; {due}\nhidden cue {cue} of 0 … {self.num_cues - 1}"


def _draw_symbol(canvas: Canvas, centre: tuple[float, float], radius: float, symbol: int) -> None:
    """Draw a polygon of symbol + 3 corners (a disc beyond eight) with its number."""
    colour: Colour = PALETTE[symbol % len(PALETTE)]
    corners = symbol + 3
    if corners > 8:
        canvas.circle(centre, radius, colour)
    else:
        angles = [2 * math.pi * corner / corners - math.pi / 2 for corner in range(corners)]
        canvas.polygon([(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles], colour)
    if radius >= 8:
        canvas.text((centre[0], centre[1] + radius * 0.08), str(symbol), BACKGROUND, size=radius * 0.8)
