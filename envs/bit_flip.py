"""Flip bits until they equal a goal: many binary variables that all matter at once.

State and goal are n random bits each, different at the start. Each bit of the action flips a bit of the state
(MultiBinary), or, with `one_flip`, the action names the one bit to flip (Discrete, as in Andrychowicz et al. 2017). The
episode ends when state and goal are equal, or after 50 steps.

Rewards, after the flip, with d the number of bits that differ:

- `sparse`: −1, and 0 where d = 0. Of 2^n actions one solves it: nothing to climb until it has been found.
- `distance`: −d. Separable over the bits, so that estimators with slopes take the bits apart, while the score
  function's noise grows with their number.

Optimum: differences at the start are D ~ Bin(n, ½), with 0 turned into 1. Flipping all of them at once gives 0. One at
a time takes D steps: −(D − 1) in all for `sparse`, of expectation 1 − n/2 − 2^−n; −D(D − 1)/2 for `distance`, of
expectation −n(n − 1)/8.

Reference: Andrychowicz et al. 2017, "Hindsight experience replay", section 3.1 (one flip, sparse). Differs: the goal is
never the state at the start, solving ends the episode, and the limit is 50 steps whatever n.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gumbelrl.envs.drawing import FAINT, GREEN, INK, ORANGE, Canvas
from gumbelrl.envs.native import NativeEnv

REWARDS = ("sparse", "distance")
BITS = 20  # taken from one random number, of its 23


class BitFlip(NativeEnv[Tensor]):
    """State and observation: the bits, then the goal, each 0 or 1.

    Args:
        num_bits: n, at most 50, so that one flip a step is enough.
        one_flip: flip one bit a step instead of any.
        reward: `sparse` or `distance`.
    """

    max_episode_steps = 50

    def __init__(
        self,
        num_envs: int,
        *,
        num_bits: int = 8,
        one_flip: bool = False,
        reward: str = "sparse",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        assert self.max_episode_steps is not None
        if not 1 <= num_bits <= self.max_episode_steps:
            raise ValueError(f"num_bits is from 1 to {self.max_episode_steps}, the steps of an episode, got {num_bits}")
        if reward not in REWARDS:
            raise ValueError(f"the reward is one of {', '.join(REWARDS)}, got {reward!r}")
        if one_flip and num_bits == 1:
            raise ValueError("one_flip with one bit leaves no choice: use num_bits of at least 2")
        self.num_bits, self.one_flip, self.reward = num_bits, one_flip, reward
        self.num_random = -(-2 * num_bits // BITS)
        self.single_observation_space = spaces.Box(0.0, 1.0, (2 * num_bits,), np.float32)
        self.single_action_space = spaces.Discrete(num_bits) if one_flip else spaces.MultiBinary(num_bits)
        self._shifts = torch.arange(BITS, dtype=torch.int32, device=self.device)
        self._first = (torch.arange(num_bits, device=self.device) == 0).float()
        self._flips = torch.eye(num_bits, device=self.device)
        n = num_bits
        self.optimal_return = 0.0
        if one_flip:
            self.optimal_return = 1 - n / 2 - 2.0**-n if reward == "sparse" else -n * (n - 1) / 8

    def initial_state(self, noise: Float[Tensor, "env random"]) -> Float[Tensor, "env 2n"]:
        packed = (noise * 2.0**BITS).to(torch.int32)
        drawn = ((packed.unsqueeze(-1) >> self._shifts) & 1).flatten(1).to(torch.float32)
        bits, goal = drawn[:, : self.num_bits], drawn[:, self.num_bits : 2 * self.num_bits]
        equal = (bits == goal).all(1, keepdim=True)
        return torch.cat((bits, torch.where(equal & (self._first > 0), 1.0 - goal, goal)), dim=1)

    def transition(
        self, state: Float[Tensor, "env 2n"], action: Int[Tensor, "env *bit"], noise: Tensor
    ) -> tuple[Float[Tensor, "env 2n"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        bits, goal = state.chunk(2, 1)
        bits = (bits - (self._flips[action] if self.one_flip else action.to(torch.float32))).abs()
        distance = (bits - goal).abs().sum(1)
        solved = distance == 0
        reward = solved.float() - 1.0 if self.reward == "sparse" else -distance
        return torch.cat((bits, goal), dim=1), reward, solved

    def observe(self, state: Float[Tensor, "env 2n"]) -> Float[Tensor, "env 2n"]:
        return state

    def optimal_probs(self) -> Float[Tensor, "env group choice"]:
        """Return all flips that are needed, or any one of them with equal probability."""
        bits, goal = self.state.chunk(2, 1)
        wrong = (bits - goal).abs()
        if self.one_flip:
            return (wrong / wrong.sum(1, keepdim=True)).unsqueeze(1)
        return torch.stack((1.0 - wrong, wrong), dim=-1)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        bits, goal = self.state[row].cpu().numpy().reshape(2, -1)
        columns = min(self.num_bits, 10)
        lines = -(-self.num_bits // columns)
        side = min(52.0, 520 / columns)
        canvas = Canvas(600, int(90 + lines * (2 * side + 24)))
        wrong = int((bits != goal).sum())
        title = f"{wrong} of {self.num_bits} bits differ; step {int(self.elapsed[row])}"
        canvas.text((300, 30), title, INK, size=18)
        left = 320 - columns * side / 2
        for index in range(self.num_bits):
            x, line = left + (index % columns) * side, index // columns
            for kind, value in enumerate((bits[index], goal[index])):
                y = 62 + line * (2 * side + 24) + kind * side
                matching = GREEN if bits[index] == goal[index] else ORANGE
                colour = matching if kind == 0 else FAINT
                canvas.rectangle(x + 2, y + 2, x + side - 2, y + side - 2, colour, radius=5)
                ink = (255, 255, 255) if kind == 0 else INK
                canvas.text((x + side / 2, y + side / 2), str(int(value)), ink, size=side * 0.42)
                if index % columns == 0:
                    canvas.text((left - 10, y + side / 2), ("bits", "goal")[kind], INK, size=14, anchor="rm")
        return canvas.array()

    def describe(self, row: int) -> str:
        bits, goal = self.state[row].to(torch.int64).reshape(2, -1).tolist()
        marks = "".join(" " if bit == aim else "^" for bit, aim in zip(bits, goal, strict=True))
        return f"bits {''.join(map(str, bits))}\ngoal {''.join(map(str, goal))}\n     {marks}"
