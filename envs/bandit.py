"""Bandits: one step, one reward, a value function of the action that is known on and off the vertices.

An episode is one action. The reward is the value of that action, with Gaussian noise if asked for; the observation is
the constant 1. The environment shows vertices (hard actions) only. `Bandit.value` is the same function extended to the
whole simplex and differentiable there: hand it to an estimator directly to ask what it does with exact slopes.

Kinds, what they separate, and their optima:

- `linear`: f = r·x. The control: straight-through, softmax and the exact gradient coincide, without variance. Optimum
  max r. With thousands of arms it measures exploration, and with `num_features` generalisation over arms.
- `curvature`: f = r·x + c (1 − ‖x‖²). At vertices the second term is 0, so that as an environment it *is* the linear
  bandit; c matters only to what is run on `value`. With two arms and gap Δ, the softmax gradient, which is also what
  straight-through expects, is p(1 − p)(Δ + 2c(1 − 2p)) in the better arm's logit: for c > Δ/2 it vanishes at
  p* = ½ + Δ/4c, where both stall (c = Δ = 1: .75), while reinmax and the exact gradient go to 1. Optimum max r.
- `parity`: n bits, 1 for an odd number of ones. Any one bit, and any n − 1, tell nothing; a critic has to be joint. The
  relaxation here is multilinear; a tanh network fitted to the vertices is not, which is what separates. Optimum 1.
- `factored`: N groups of K choices, f = Σ_g r_g·x_g. The score function's noise over the gradient grows as √N, that
  of pathwise estimators does not; K^N actions are beyond the exact gradient over joint actions. Optimum Σ_g max r_g.
- `pairwise`: the same with interactions of neighbouring groups, Σ_g x_g' W_g x_{g+1}: no critic that is a sum over
  groups can represent it, a multilinear one can. Optimum by dynamic programming along the chain (Viterbi 1967).

Reference: Sutton & Barto 2018, chapter 2; the curvature bandit and its fixed points are this project's own.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.bandit_values import (
    RESOLUTION,
    BanditValue,
    ChainValue,
    ParityValue,
    SeparableValue,
    draw_normal,
    round_exactly,
    set_gap,
)
from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, ORANGE, Canvas, Colour
from gumbelrl.envs.native import NativeEnv

SIZES = {"linear": (1, 10), "curvature": (1, 2), "parity": (4, 2), "factored": (16, 5), "pairwise": (16, 5)}
"""The kinds, and the groups × choices that they have by default."""

MOST_GROUPS = 256


class Bandit(NativeEnv[Tensor]):
    """One action, one reward.

    Actions are Discrete for one group, MultiBinary for parity and MultiDiscrete otherwise.

    Args:
        kind: a key of `SIZES`.
        num_groups: of the action.
        num_choices: of each group (arms, if there is one group).
        seed: from which the values are drawn: standard normal, the same on every device.
        gap: how much better the best choice of each group is than the second, where the value is separable (all kinds
            but parity and pairwise); as drawn by default, and 1 for `curvature`.
        curvature: c of the kind `curvature`; 1 by default.
        even_reward: of parity's even numbers, usually 0 or −1.
        interaction: standard deviation of the entries of pairwise's W.
        num_features: with a number d, rewards are linear in d known features of each arm, `features`, drawn like the
            values. One group only. They are an attribute and not part of the observation, since they never change.
        noise_std: standard deviation of Gaussian noise added to rewards.

    Attributes:
        function: the value function, with its best action.
        features: of the arms, `[choice, feature]`; None without.
    """

    num_random = 0

    def __init__(
        self,
        num_envs: int,
        *,
        kind: str = "linear",
        num_groups: int | None = None,
        num_choices: int | None = None,
        seed: int = 0,
        gap: float | None = None,
        curvature: float | None = None,
        even_reward: float = 0.0,
        interaction: float = 1.0,
        num_features: int | None = None,
        noise_std: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        if kind not in SIZES:
            raise ValueError(f"a bandit's kind is one of {', '.join(SIZES)}, got {kind!r}")
        groups, choices = SIZES[kind]
        groups, choices = num_groups or groups, num_choices or choices
        if kind == "curvature":
            gap, curvature = 1.0 if gap is None else gap, 1.0 if curvature is None else curvature
        _check_options(kind, groups, choices, gap, curvature, even_reward, num_features, noise_std)
        self.kind, self.noise_std = kind, noise_std
        self.features: Float[Tensor, "choice feature"] | None = None
        if kind == "parity":
            self.function: BanditValue = ParityValue(groups, even_reward, device=self.device)
        else:
            rewards = self._draw_rewards(seed, groups, choices, num_features, gap).to(self.device)
            if kind == "pairwise":
                drawn = interaction * draw_normal(seed, "interactions", groups - 1, choices, choices)
                self.function = ChainValue(rewards, round_exactly(drawn).to(self.device))
            else:
                self.function = SeparableValue(rewards, curvature or 0.0)
        self._set_spaces(groups, choices)
        self.num_step_random = int(noise_std > 0)
        self.optimal_return = self.function.best_value

    def _draw_rewards(
        self, seed: int, groups: int, choices: int, num_features: int | None, gap: float | None
    ) -> Float[Tensor, "group choice"]:
        if num_features is None:
            rewards = round_exactly(draw_normal(seed, "rewards", groups, choices))
            return rewards if gap is None else round_exactly(set_gap(rewards, gap))
        features = draw_normal(seed, "features", choices, num_features) / math.sqrt(num_features)
        weights = draw_normal(seed, "weights", num_features)
        self.features = features.to(self.device)
        return round_exactly((features.double() * weights.double()).sum(-1)).unsqueeze(0)

    def _set_spaces(self, groups: int, choices: int) -> None:
        self.single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        if self.kind == "parity":
            self.single_action_space: spaces.Space = spaces.MultiBinary(groups)
        elif groups == 1:
            self.single_action_space = spaces.Discrete(choices)
        else:
            self.single_action_space = spaces.MultiDiscrete([choices] * groups)
        self._one = torch.ones(self.num_envs, 1, device=self.device)
        self._ended = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        one_hot = functional.one_hot(self.function.best, self.function.num_choices).to(torch.float32)
        self._optimal = one_hot.expand(self.num_envs, -1, -1)

    def value(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        """Return the value of one-hot or relaxed actions, differentiable; the expected reward at vertices."""
        return self.function(action)

    def initial_state(self, noise: Tensor) -> Float[Tensor, "env 1"]:
        return self._one.clone()

    def transition(
        self, state: Float[Tensor, "env 1"], action: Int[Tensor, "env *group"], noise: Float[Tensor, "env random"]
    ) -> tuple[Float[Tensor, "env 1"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        # MultiBinary actions may come as int8 from views, which would overflow as an index.
        reward = self.function.at(action.view(self.num_envs, -1).to(torch.int64))
        if self.num_step_random:
            reward = reward + self.noise_std * torch.special.ndtri(noise[:, 0])
        return state, reward, self._ended

    def observe(self, state: Float[Tensor, "env 1"]) -> Float[Tensor, "env 1"]:
        return state

    def optimal_probs(self) -> Float[Tensor, "env group choice"]:
        """Return a best action; parity has 2^(n−1) of them, of which this is one."""
        return self._optimal

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        canvas = Canvas(600, 400)
        canvas.text((24, 28), f"{self.kind} bandit, {self._size()}", size=18, anchor="lm")
        canvas.text((576, 28), f"best {self.function.best_value:.3f}", GREEN, size=18, anchor="rm")
        if isinstance(self.function, ParityValue):
            _draw_parity(canvas, self.function)
        elif self.function.num_groups == 1:
            _draw_arms(canvas, self._rewards()[0])
        else:
            _draw_groups(canvas, self._rewards(), self.function.best.cpu().numpy(), self.kind == "pairwise")
        return canvas.array()

    def _rewards(self) -> np.ndarray:
        assert isinstance(self.function, SeparableValue | ChainValue)
        return self.function.rewards.cpu().numpy()

    def _size(self) -> str:
        groups, choices = self.function.num_groups, self.function.num_choices
        return f"{choices:,} arms" if groups == 1 else f"{groups} groups of {choices} choices"

    def describe(self, row: int) -> str:
        best = self.function.best.tolist()
        shown = ", ".join(map(str, best[:16])) + (", …" if len(best) > 16 else "")
        noise = f", noise {self.noise_std:g}" if self.noise_std else ""
        return f"{self.kind} bandit: {self._size()}{noise}\nbest action [{shown}], value {self.function.best_value:.4f}"


def _check_options(
    kind: str,
    groups: int,
    choices: int,
    gap: float | None,
    curvature: float | None,
    even_reward: float,
    num_features: int | None,
    noise_std: float,
) -> None:
    """Refuse what makes no bandit.

    Raises:
        ValueError: saying what would be right.
    """
    if not 1 <= groups <= MOST_GROUPS or choices < 2:
        raise ValueError(f"a bandit has 1 to {MOST_GROUPS} groups of 2 or more choices, got {groups} of {choices}")
    if kind == "parity" and choices != 2:
        raise ValueError(f"parity is of bits: num_choices must be 2, got {choices}")
    if kind == "pairwise" and groups < 2:
        raise ValueError(f"a pairwise bandit needs at least 2 groups, got {groups}")
    if kind != "curvature" and curvature is not None:
        raise ValueError(f"curvature belongs to the kind 'curvature', not to {kind!r}")
    if even_reward >= 1.0 or (even_reward != 0.0 and kind != "parity"):
        raise ValueError(f"even_reward is below 1 and belongs to the kind 'parity', got {even_reward} for {kind!r}")
    if gap is not None and (kind in ("parity", "pairwise") or gap < RESOLUTION or num_features is not None):
        raise ValueError(f"gap is above 0 and for separable values without features, got {gap} for {kind!r}")
    if num_features is not None and (num_features < 1 or groups != 1 or kind == "parity"):
        raise ValueError(f"num_features is at least 1 and for one group of arms, got {num_features} for {kind!r}")
    if noise_std < 0:
        raise ValueError(f"noise_std must not be negative, got {noise_std}")


def _draw_arms(canvas: Canvas, rewards: np.ndarray) -> None:
    """Draw a bar an arm; beyond 32 arms, the values in order."""
    many = len(rewards) > 32
    heights = np.sort(rewards)[::-1] if many else rewards
    if many:
        heights = heights[np.linspace(0, len(heights) - 1, 276).astype(int)]
    top, bottom = max(float(heights.max()), 0.0), min(float(heights.min()), 0.0)
    scale, width = 280 / (top - bottom), 552 / len(heights)
    zero = 60 + top * scale
    for arm, value in enumerate(heights):
        left, right = 24 + (arm + (0 if many else 0.15)) * width, 24 + (arm + (1 if many else 0.85)) * width
        ends = sorted((zero, zero - float(value) * scale))
        canvas.rectangle(left, ends[0], right, max(ends[1], ends[0] + 1), GREEN if value == heights.max() else BLUE)
        if not many:
            canvas.text(((left + right) / 2, 372), str(arm), INK, size=min(14.0, width * 0.7))
    canvas.line([(24, zero), (576, zero)], INK, width=1)
    if many:
        canvas.text((300, 372), "best first", INK)


def _draw_groups(canvas: Canvas, rewards: np.ndarray, best: np.ndarray, chained: bool) -> None:
    """Draw the reward of every choice, groups from left to right, and the best action in it."""
    groups, choices = rewards.shape
    width, height = 552 / groups, 280 / choices
    reach = float(np.abs(rewards).max())
    centres = []
    for group in range(groups):
        for choice in range(choices):
            left, top = 24 + group * width, 60 + choice * height
            gap = min(1.0, width * 0.1)
            canvas.rectangle(left, top, left + width - gap, top + height - gap, _shade(rewards[group, choice] / reach))
        centres.append((24 + (group + 0.5) * width, 60 + (int(best[group]) + 0.5) * height))
    if chained and groups <= 64:
        canvas.line(centres, INK, width=2)
    for centre in centres:
        canvas.circle(centre, max(1.5, min(width, height) * 0.2), GREEN, outline=INK, width=1)
    canvas.text((300, 372), "groups, left to right; dots: the best action", INK)


def _draw_parity(canvas: Canvas, value: ParityValue) -> None:
    """Draw every action of up to 8 bits, the first half of the bits down, the others across."""
    bits = value.num_groups
    if bits > 8:
        canvas.text((300, 200), f"odd numbers of ones among {bits} bits give 1, even {value.even_reward:g}", size=18)
        return
    rows, columns = 2 ** (bits // 2), 2 ** (bits - bits // 2)
    side = min(280 / rows, 552 / columns)
    left, top = 300 - side * columns / 2, 200 - side * rows / 2
    for y in range(rows):
        for x in range(columns):
            odd = (y.bit_count() + x.bit_count()) % 2
            box = (left + x * side, top + y * side, left + (x + 1) * side - 1, top + (y + 1) * side - 1)
            canvas.rectangle(*box, GREEN if odd else FAINT)
            if bits <= 5:
                code = f"{y:0{bits // 2}b}{x:0{bits - bits // 2}b}" if bits > 1 else f"{x:b}"
                canvas.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), code, INK, size=side * 0.22)
    canvas.text((300, 372), f"green: an odd number of ones, reward 1; others {value.even_reward:g}", INK)


def _shade(level: float) -> Colour:
    """Return white at 0, blue towards 1 and orange towards −1."""
    end = np.array(BLUE if level > 0 else ORANGE, dtype=float)
    mixed = 245 + (end - 245) * min(1.0, abs(float(level)))
    return int(mixed[0]), int(mixed[1]), int(mixed[2])
