"""Two arms whose value bends between the vertices: where does learning come to rest?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gumbelrl.policies import ESTIMATORS

from estimator_problems.variants import by_temperature, temperatures

TITLE = "The curvature bandit"
QUESTION = (
    "Two arms, value x₁ + c (1 − ‖x‖²): at the vertices the second term is 0, so that the first arm is better by 1 "
    "whatever c is. Fixed points of the expected gradient, as the probability of the better arm; ± is one standard "
    "error. Without a fixed point the better arm is found from anywhere."
)
CURVATURES = (1.0, -1.0)
COARSE, FINE = 20_000, 200_000  # estimates at a point
GRID = torch.linspace(-5.03, 5.01, 41, dtype=torch.float64)  # logits; no round number, which could be a fixed point
SURE = 4.0  # standard errors that decide a sign


def measure(name: str) -> dict[str, Any]:
    return {
        str(t): {f"{c:+g}": fixed_points(name, temperature=t, curvature=c) for c in CURVATURES}
        for t in temperatures(name)
    }


def fixed_points(name: str, *, temperature: float, curvature: float) -> list[dict[str, Any]]:
    """Return where the expected gradient changes its sign, and whether it pulls there."""
    generator = torch.Generator().manual_seed(0)

    def drift(points: Tensor, samples: int) -> tuple[Tensor, Tensor]:
        return _drift(name, points, samples, temperature=temperature, curvature=curvature, generator=generator)

    found = []
    for low, high in _brackets(GRID, *drift(GRID, COARSE)):
        points = torch.linspace(low, high, 9, dtype=torch.float64)
        without_noise = ESTIMATORS[name].noise == "none"
        root, error = _bisect(drift, low, high) if without_noise else _root(points, *drift(points, FINE))
        p = 1.0 / (1.0 + math.exp(-root))
        attracts = bool(drift(points[:1], COARSE)[0] > 0)
        found.append({"p": round(p, 4), "error": round(error * p * (1 - p), 4), "attracts": attracts})
    return found


def _bisect(drift: Callable[[Tensor, int], tuple[Tensor, Tensor]], low: float, high: float) -> tuple[float, float]:
    """Return where a drift without noise changes its sign, be it in a jump."""
    rising = drift(torch.tensor([low], dtype=torch.float64), 1)[0] < 0
    while high - low > 1e-6:
        middle = (low + high) / 2
        below = (drift(torch.tensor([middle], dtype=torch.float64), 1)[0] < 0) == rising
        low, high = (middle, high) if below else (low, middle)
    return low, 0.0


def _root(points: Tensor, mean: Tensor, error: Tensor) -> tuple[float, float]:
    """Return where a cubic fitted to the drift vanishes between the points, and the standard error by resampling."""
    x, y, spread = points.numpy(), mean.numpy(), error.clamp_min(1e-12).numpy()
    dense = np.linspace(x[0], x[-1], 20_001)
    draws = np.random.default_rng(0).normal(size=(200, len(x)))
    roots = []
    for values in (y, *(y + draws * spread)):
        fitted = np.polynomial.Polynomial.fit(x, values, 3, w=1.0 / spread)(dense)
        roots.append(dense[np.abs(fitted).argmin()])
    return float(roots[0]), float(np.std(roots[1:]))


def _drift(
    name: str, points: Tensor, samples: int, *, temperature: float, curvature: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the mean gradient with respect to the first logit and its standard error, at each point."""

    def value(action: Tensor) -> Tensor:
        return action[..., 0, 0] + curvature * (1.0 - action.square().sum((-2, -1)))

    count = 1 if ESTIMATORS[name].noise == "none" else samples
    logits = torch.stack([points / 2, -points / 2], -1)[:, None, None, :]
    many = logits.expand(-1, count, -1, -1).clone().requires_grad_()
    objective = ESTIMATORS[name](many, value, temperature=temperature, generator=generator).objective
    estimates = torch.autograd.grad(objective.sum(), many)[0][..., 0, 0]
    if count == 1:
        return estimates[:, 0], torch.zeros(len(points), dtype=torch.float64)
    return estimates.mean(1), estimates.std(1) / math.sqrt(count)


def _brackets(points: Tensor, mean: Tensor, error: Tensor) -> list[tuple[float, float]]:
    """Return neighbours between which the sign changes, leaving out points whose sign is not sure."""
    sure = [i for i in range(len(points)) if abs(mean[i]) > SURE * error[i] and abs(mean[i]) > 1e-7]
    return [(points[i].item(), points[j].item()) for i, j in itertools.pairwise(sure) if mean[i] * mean[j] < 0]


def stall_of_gumbel(temperature: float, curvature: float = 1.0) -> float:
    """Return the fixed point of `gumbel` by quadrature over the difference of two Gumbels, which is logistic."""
    quantile = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    noise = torch.logit(quantile)

    def drift(logit: float) -> float:
        score = logit + noise
        relaxed = torch.sigmoid(score / temperature)
        # The slope across is 1 − 2c at the first vertex and 1 + 2c at the second.
        across = 1.0 - 2.0 * curvature * torch.sign(score)
        return float((relaxed * (1 - relaxed) / temperature * across).mean())

    low, high = 0.0, 8.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if drift(middle) > 0 else (low, middle)
    return 1.0 / (1.0 + math.exp(-low))


def _cell(points: list[dict[str, Any]]) -> str:
    kinds = {True: "rests at", False: "leaves"}
    return (
        "; ".join(f"{kinds[each['attracts']]} {each['p']:.3f} ± {each['error']:.3f}" for each in points)
        or "none: finds the better arm"
    )


def table(found: dict[str, Any]) -> str:
    lines = ["| estimator | c = 1 | c = −1 |", "|---|---|---|"]
    for name, rows in found.items():
        for label, row in by_temperature(name, rows):
            lines.append(f"| `{label}` | {_cell(row['+1'])} | {_cell(row['-1'])} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    rows = [(label, row) for name, each in found.items() for label, row in by_temperature(name, each)]
    figure.set_size_inches(7, 1.5 + 0.13 * len(rows))
    for panel, (axes, sign) in enumerate(zip(figure.subplots(1, 2, sharey=True), ("+1", "-1"), strict=True)):
        for height, (_, row) in enumerate(rows):
            axes.axhline(height, color="0.9", linewidth=0.8, zorder=0)
            rests = [each["p"] for each in row[sign] if each["attracts"]]
            leaves = [each["p"] for each in row[sign] if not each["attracts"]]
            # Between two ends that pull, learning from above a point that is left reaches the better arm.
            if not rests:
                axes.scatter([1.0], [height], marker="*", color="tab:green", s=30)
            axes.scatter(rests, [height] * len(rests), color="tab:red", s=16)
            axes.scatter(leaves, [height] * len(leaves), facecolors="none", edgecolors="tab:blue", s=16)
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel("probability of the better arm")
        axes.set_title(f"c = {sign.replace('-', '−')}")
        if panel == 0:
            axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=6)
    figure.suptitle(
        "Where learning rests (red), is driven away from (blue ring), or ends at the better arm (star)", fontsize=9
    )
