"""Press one button in each row so that their numbers add up; a pressed button stays down.

A display shows a target from 0 to n − 1. The agent presses one button in each of several rows of buttons with these
numbers; the lamp lights, for a reward of 1, where the sum of the numbers is the target modulo n. Then another target is
shown, uniform and independent. Pressed buttons stay down until the episode ends, after a fixed number of presses, and
cannot be chosen again: the mask is different at every step and depends on the past. (Where masks are not imposed,
pressing a button that is down lights nothing.)

What it separates:

- With all buttons up and a uniform policy, whatever one row does the lamp is lit with probability 1/n: only the joint
  choice matters. A critic that is a sum over groups learns nothing there; a multilinear or a joint one can.
- Masks have to hold in acting, in targets and in the actor's loss.
- Planning hardly matters: with 3 rows of 4 and 3 presses, random play gets .75, lighting the lamp by any press that
  does 2.982, the optimum 3. (The rest: of three rows with two even numbers left in each, no press gives an odd sum.)

Optimum: by enumeration. The value of a set of buttons with k presses to go is the mean over targets of the largest,
over joint presses of buttons that are up, of the reward and the value of the larger set with k − 1 to go.

Source: this project's own; the rule is addition modulo n, the n-ary parity.
"""

from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BLUE, FAINT, INK, YELLOW, Canvas
from gumbelrl.envs.native import NativeEnv

MOST_BUTTONS = 12  # tables have a row for each set of buttons

# The state's columns: the buttons that are down as bits, the target, presses so far, how often the lamp was lit.
DOWN, TARGET, TIME, LIT = range(4)


class MultiButton(NativeEnv[Tensor]):
    """Actions: a button in each row (MultiDiscrete). Observation: the target as one-hot, then 1 for each button up.

    Args:
        num_rows: rows of buttons, at least 2.
        num_buttons: in each row.
        num_presses: steps of an episode; fewer than `num_buttons`, so that a row never runs out.
    """

    num_random = 1
    num_step_random = 1

    def __init__(
        self,
        num_envs: int,
        *,
        num_rows: int = 3,
        num_buttons: int = 4,
        num_presses: int = 3,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        total = num_rows * num_buttons
        if num_rows < 2 or num_buttons < 2 or total > MOST_BUTTONS:
            raise ValueError(
                f"there are at least 2 rows of at least 2 buttons, {MOST_BUTTONS} in all at most, "
                f"got {num_rows} of {num_buttons}"
            )
        if not 1 <= num_presses < num_buttons:
            raise ValueError(
                f"num_presses is from 1 to {num_buttons - 1}, one less than the buttons, got {num_presses}"
            )
        self.num_rows, self.num_buttons, self.num_presses = num_rows, num_buttons, num_presses
        self.single_observation_space = spaces.Box(0.0, 1.0, (num_buttons + total,), np.float32)
        self.single_action_space = spaces.MultiDiscrete([num_buttons] * num_rows)
        sets = torch.arange(1 << total).unsqueeze(1)
        up = (sets >> torch.arange(total)) & 1 == 0
        targets = torch.eye(num_buttons).repeat(1 << total, 1)
        self._up = up.to(self.device)
        self._seen = torch.cat((targets, up.float().repeat_interleave(num_buttons, 0)), 1).to(self.device)
        self._bits = (1 << torch.arange(total)).to(self.device)
        self._first = (torch.arange(num_rows) * num_buttons).to(self.device)
        self._zeros = torch.zeros(num_envs, dtype=torch.int64, device=self.device)

    def initial_state(self, noise: Float[Tensor, "env 1"]) -> Int[Tensor, "env 4"]:
        return torch.stack((self._zeros, self._target(noise), self._zeros, self._zeros), dim=1)

    def _target(self, noise: Float[Tensor, "env 1"]) -> Int[Tensor, " env"]:
        return (noise[:, 0] * self.num_buttons).to(torch.int64)

    def transition(
        self, state: Int[Tensor, "env 4"], action: Int[Tensor, "env row"], noise: Float[Tensor, "env 1"]
    ) -> tuple[Int[Tensor, "env 4"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        down, target, time, lit = state.unbind(1)
        pressed = self._bits[action + self._first].sum(1)
        lights = ((action.sum(1) - target) % self.num_buttons == 0) & (down & pressed == 0)
        time = time + 1
        state = torch.stack((down | pressed, self._target(noise), time, lit + lights), dim=1)
        return state, lights.to(torch.float32), time >= self.num_presses

    def observe(self, state: Int[Tensor, "env 4"]) -> Float[Tensor, "env feature"]:
        return self._seen[state[:, DOWN] * self.num_buttons + state[:, TARGET]]

    def action_mask(self, state: Int[Tensor, "env 4"]) -> Bool[Tensor, "env total"]:
        return self._up[state[:, DOWN]]

    # Optimum --------------------------------------------------------------------------------------------------------

    @cached_property
    def _joint(self) -> tuple[Int[Tensor, "joint row"], Int[Tensor, " joint"], Bool[Tensor, "target joint"]]:
        """Return all joint presses, the buttons of each as bits, and whether they light the lamp for each target."""
        presses = torch.tensor(list(itertools.product(range(self.num_buttons), repeat=self.num_rows)))
        presses = presses.to(self.device)
        bits = self._bits[presses + self._first].sum(1)
        targets = torch.arange(self.num_buttons, device=self.device).unsqueeze(1)
        return presses, bits, presses.sum(1) % self.num_buttons == targets

    @cached_property
    def _values(self) -> Float[Tensor, "time set"]:
        """Return the value of each set of buttons that are down, before the target is known; by backward induction."""
        _, bits, lights = self._joint
        sets = torch.arange(len(self._up), device=self.device).unsqueeze(1)
        possible, following = sets & bits == 0, sets | bits
        values = [torch.zeros(len(self._up), dtype=torch.float64, device=self.device)]
        for _ in range(self.num_presses):
            future = values[-1][following].masked_fill(~possible, -torch.inf)
            best = torch.stack([(future + row.double()).max(1).values for row in lights]).mean(0)
            values.append(best.where(best.isfinite(), 0.0))  # sets in which some row has run out are never met
        return torch.stack(values[::-1])

    @property
    def optimal_return(self) -> float:  # type: ignore[override]
        return float(self._values[0, 0])

    def optimal_probs(self) -> Float[Tensor, "env row button"]:
        """Return a best joint press."""
        presses, bits, lights = self._joint
        down, target, time, _ = self.state.unbind(1)
        future = self._values[time.unsqueeze(1) + 1, down.unsqueeze(1) | bits]
        values = (future + lights[target]).masked_fill(down.unsqueeze(1) & bits != 0, -torch.inf)
        return functional.one_hot(presses[values.argmax(1)], self.num_buttons).to(torch.float32)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        down, target, time, lit = self.state[row].tolist()
        side = min(64.0, 500 / self.num_buttons)
        canvas = Canvas(560, int(150 + side * self.num_rows))
        canvas.rectangle(20, 20, 180, 100, INK, radius=8)
        canvas.text((100, 60), str(target), YELLOW, size=46)
        canvas.text((200, 42), f"the sum has to be {target} modulo {self.num_buttons}", INK, size=17, anchor="lm")
        canvas.text((200, 78), f"press {time} of {self.num_presses}, lit {lit} times", INK, size=15, anchor="lm")
        left = 280 - side * self.num_buttons / 2
        for index in range(self.num_rows * self.num_buttons):
            line, number = divmod(index, self.num_buttons)
            x, y = left + (number + 0.5) * side, 125 + (line + 0.5) * side
            pressed = down >> index & 1
            canvas.circle((x, y), side * 0.4, FAINT if pressed else BLUE)
            canvas.text((x, y), str(number), INK if pressed else (255, 255, 255), size=side * 0.34)
        return canvas.array()

    def describe(self, row: int) -> str:
        down, target, time, lit = self.state[row].tolist()
        lines = [
            " ".join("-" if down >> (line * self.num_buttons + n) & 1 else str(n) for n in range(self.num_buttons))
            for line in range(self.num_rows)
        ]
        head = f"target {target} modulo {self.num_buttons}; press {time} of {self.num_presses}; lit {lit} times"
        return "\n".join([head, *lines])
