"""Pointer: pick the presented item that is most like a query; the number of items varies.

An episode presents n items, n uniform on min_items … max_items; the other rows are padding. Items and query are unit
vectors of `num_features` numbers, uniform on the sphere (Muller 1959: a Gaussian vector, normalised), and picking an
item earns its cosine with the query. With `horizon` above 1 a picked item is taken away and the episode goes on, so
that the mask changes within an episode. `reward="linear"` holds the query at the fixed weights (1, …, 1)/√d in every
episode, so that the reward is a fixed linear function of the item's features; `reward="query"` draws one an episode.

Observation: float32 `[1 + max_items, num_features + 1]`. Row 0 is the query and the fraction of the picks that is left,
row i + 1 is item i and a 1; rows of padding and of items taken are zeros. It is the whole state. Picking a row without
an item is masked; where nobody checks, it earns −1, the least that an item can.

What it separates: policies by their form, rather than estimators. A head with one output a position must learn the
comparison anew for each position and cannot take more items than it was made for; a pointer (`policies.PointerHead`)
learns it once, for any number. A critic that is linear in the choice is exact here, so that pathwise estimators have no
bias but that of their relaxation, while the noise of the score function grows with the number of items.

Optimum: the items with the h = `horizon` largest cosines, in any order. The angle φ between an item and the query has
the density sinᵐφ/Z on (0, π), with m = d − 2 and Z its integral, whatever the query is. Let G(φ) be the probability
that another item is nearer. An item is among the best h when fewer than h of the n − 1 others are nearer, so that

    E[best h of n] = n ∫ cos φ · P(Binomial(n − 1, G(φ)) < h) · sinᵐφ/Z dφ,

averaged over n. For d = 3 a cosine is uniform on (−1, 1) (Archimedes), and E[best of n] = (n − 1)/(n + 1). With the
default options .5821 (2 … 10 items of 4 features); uniformly random picks earn 0.

Source: pointing at an input is from Vinyals, Fortunato & Jaitly 2015, "Pointer networks", arXiv:1506.03134; the task is
the package's own.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BACKGROUND, BLUE, FAINT, GREEN, INK, ORANGE, Canvas, Colour
from gumbelrl.envs.native import NativeEnv

REWARDS = ("query", "linear")


class Pointer(NativeEnv[Tensor]):
    """Pick the item nearest to the query; see the module's docstring.

    The state is the observation, `[env, 1 + max_items, num_features + 1]`.

    Args:
        max_items: rows for items; the number of actions.
        min_items: the fewest items presented; one more than `horizon` at least, so that one is always left.
        num_features: of an item, at least 2.
        horizon: picks in an episode.
        reward: `query` draws a query in each episode, `linear` keeps it at (1, …, 1)/√d.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        max_items: int = 10,
        min_items: int = 2,
        num_features: int = 4,
        horizon: int = 1,
        reward: Literal["query", "linear"] = "query",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(num_envs, device=device, dtype=dtype)
        _check_options(max_items, min_items, num_features, horizon, reward)
        self.max_items, self.min_items, self.num_features, self.horizon = max_items, min_items, num_features, horizon
        shape = (1 + max_items, num_features + 1)
        self.single_observation_space = spaces.Box(-1.0, 1.0, shape, np.float32)
        self.single_action_space = spaces.Discrete(max_items)
        self.optimal_return = float(
            np.mean([expected_best(n, horizon, num_features) for n in range(min_items, max_items + 1)])
        )
        num_drawn = max_items + (reward == "query")
        self.num_random = 1 + num_drawn * num_features
        # One uniform number says how many items there are: row i is present where it is at least threshold i.
        row = torch.arange(1 + max_items, device=self.device)
        self._threshold = ((row - min_items) / (max_items - min_items + 1)).to(dtype)
        weights = torch.full((1, 1, num_features), num_features**-0.5, dtype=dtype, device=self.device)
        self._fixed_query = weights.expand(num_envs, -1, -1) if reward == "linear" else None
        # Vectors are a few roundings short of 1, so that no coordinate lands outside the space.
        self._stretched = torch.full((num_features,), 1.0 + 2.0**-20, dtype=dtype, device=self.device)
        self._one_pick = torch.zeros(shape, dtype=dtype, device=self.device)
        self._one_pick[0, -1] = 1.0 / horizon

    def initial_state(self, noise: Float[Tensor, "env random"]) -> Float[Tensor, "env row column"]:
        present = (noise[:, :1] >= self._threshold).to(noise.dtype).unsqueeze(-1)
        gaussian = torch.erfinv(2.0 * noise[:, 1:] - 1.0).unflatten(1, (-1, self.num_features))
        drawn = present if self._fixed_query is None else present[:, 1:]
        vectors = gaussian * (drawn * torch.rsqrt(gaussian.square() @ self._stretched).unsqueeze(-1))
        if self._fixed_query is not None:
            vectors = torch.cat((self._fixed_query, vectors), dim=1)
        return torch.cat((vectors, present), dim=-1)

    def transition(
        self, state: Float[Tensor, "env row column"], action: Int[Tensor, " env"], noise: Tensor
    ) -> tuple[Float[Tensor, "env row column"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        index = (action + 1).view(-1, 1, 1).expand(-1, 1, self.num_features + 1)
        query, item = state[:, 0], state.gather(1, index)[:, 0]
        cosine = (query[:, :-1] * item[:, :-1]).sum(1)
        reward = cosine - (1.0 - item[:, -1])
        last = query[:, -1] < 1.5 / self.horizon
        return (state - self._one_pick).scatter(1, index, 0.0), reward.to(torch.float32), last

    def observe(self, state: Float[Tensor, "env row column"]) -> Float[Tensor, "env row column"]:
        return state

    def action_mask(self, state: Float[Tensor, "env row column"]) -> Bool[Tensor, "env item"]:
        return state[:, 1:, -1] > 0.0

    def cosines(self) -> Float[Tensor, "env item"]:
        """Return the cosine of each item with the query, −∞ where there is no item."""
        cosine = (self.state[:, 1:, :-1] * self.state[:, :1, :-1]).sum(-1)
        return cosine.where(self.action_mask(self.state), -torch.inf)

    def optimal_probs(self) -> Float[Tensor, "env 1 item"]:
        return functional.one_hot(self.cosines().argmax(-1), self.max_items).float().unsqueeze(1)

    # Pictures -------------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> np.ndarray:
        """Return the query and the items as columns of coloured cells (blue −1, orange +1), cosines below."""
        rows, cosines = self.state[row].cpu(), self.cosines()[row].cpu()
        canvas = Canvas(640, 320)
        slot = min(60.0, 600.0 / (self.max_items + 1.5))
        left = (640.0 - slot * (self.max_items + 1.5)) / 2
        best = int(cosines.argmax())
        for index in range(1 + self.max_items):
            x = left + slot * (index + (0.5 if index else 0.0))
            present = index == 0 or bool(cosines[index - 1].isfinite())
            if index == 0 or index - 1 == best:
                frame = INK if index == 0 else GREEN
                canvas.rectangle(x + 1, 61, x + slot - 1, 249, frame, radius=7)
            _draw_vector(canvas, x, slot, rows[index, :-1].tolist() if present else None)
            if slot >= 26:
                canvas.text((x + slot / 2, 46), "query" if index == 0 else str(index - 1), INK, size=min(14, slot / 3))
                if index and present:
                    colour = GREEN if index - 1 == best else INK
                    canvas.text((x + slot / 2, 266), f"{cosines[index - 1]:+.2f}", colour, size=min(14, slot / 3.2))
        left_text = f"picks left: {round(float(rows[0, -1]) * self.horizon)} of {self.horizon}"
        canvas.text((320, 20), f"pick the item most like the query · {left_text}", INK, size=15)
        canvas.text((320, 298), "cosine with the query", INK, size=13)
        return canvas.array()

    def describe(self, row: int) -> str:
        rows, cosines = self.state[row].cpu(), self.cosines()[row].cpu()
        lines = [f"query   {_numbers(rows[0, :-1])}  picks left {round(float(rows[0, -1]) * self.horizon)}"]
        lines += [
            f"item {index:<2} {_numbers(rows[index + 1, :-1])}  cosine {cosine:+.2f}"
            for index, cosine in enumerate(cosines.tolist())
            if math.isfinite(cosine)
        ]
        return "\n".join(lines)


def _check_options(max_items: int, min_items: int, num_features: int, horizon: int, reward: str) -> None:
    if horizon < 1:
        raise ValueError(f"horizon is the picks in an episode, at least 1, got {horizon}")
    if min_items <= horizon:
        raise ValueError(f"min_items must be above horizon={horizon}, so that an item is always left, got {min_items}")
    if max_items < min_items:
        raise ValueError(f"max_items must be at least min_items={min_items}, got {max_items}")
    if num_features < 2:
        raise ValueError(f"num_features must be at least 2, got {num_features}")
    if reward not in REWARDS:
        raise ValueError(f"unknown reward {reward!r}; choose one of {', '.join(REWARDS)}")


# Optimum ------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def expected_best(num_items: int, num_picked: int, num_features: int) -> float:
    """Return the expected sum of the `num_picked` largest of `num_items` cosines; the module's docstring derives it.

    By Gauss-Legendre quadrature on 512 nodes; G(φ) is in closed form.
    """
    nodes, weights = np.polynomial.legendre.leggauss(512)
    angle, power = (nodes + 1.0) * (math.pi / 2), num_features - 2
    total = _integral_of_sine_power(np.array([math.pi]), power)[0]
    nearer = (_integral_of_sine_power(angle, power) / total).clip(1e-300, 1.0 - 1e-16)
    others = num_items - 1
    among_best = np.zeros_like(angle)
    for count in range(num_picked):
        log_ways = math.lgamma(others + 1) - math.lgamma(count + 1) - math.lgamma(others - count + 1)
        among_best += np.exp(log_ways + count * np.log(nearer) + (others - count) * np.log1p(-nearer))
    density = np.sin(angle) ** power / total
    return float(num_items * (math.pi / 2) * np.sum(weights * np.cos(angle) * among_best * density))


def _integral_of_sine_power(angle: np.ndarray, power: int) -> np.ndarray:
    """Return ∫₀^angle sinᵐ, from ∫ sinᵐ = ((m − 1) ∫ sinᵐ⁻² − cos · sinᵐ⁻¹)/m."""
    integral = angle if power % 2 == 0 else 1.0 - np.cos(angle)
    for m in range(2 + power % 2, power + 1, 2):
        integral = ((m - 1) * integral - np.cos(angle) * np.sin(angle) ** (m - 1)) / m
    return integral


# Pictures -----------------------------------------------------------------------------------------------------------


def _draw_vector(canvas: Canvas, left: float, width: float, vector: list[float] | None) -> None:
    """Draw a vector as a column of cells at the height of all; an empty frame where there is none."""
    top, bottom, margin = 64.0, 246.0, 4.0
    canvas.rectangle(left + margin, top, left + width - margin, bottom, FAINT, radius=5)
    if vector is None:
        canvas.rectangle(left + margin + 2, top + 2, left + width - margin - 2, bottom - 2, BACKGROUND, radius=4)
        return
    height = (bottom - top - 4) / len(vector)
    for index, value in enumerate(vector):
        y = top + 2 + index * height
        canvas.rectangle(left + margin + 2, y, left + width - margin - 2, y + height - 1, _shade(value), radius=2)


def _shade(value: float) -> Colour:
    """Return a colour from blue at −1 over the background at 0 to orange at 1."""
    end, weight = (ORANGE if value > 0 else BLUE), min(1.0, abs(value))
    red, green, blue = (round(base + (full - base) * weight) for base, full in zip(BACKGROUND, end, strict=True))
    return red, green, blue


def _numbers(vector: Tensor) -> str:
    return " ".join(f"{value:+.2f}" for value in vector.tolist())
