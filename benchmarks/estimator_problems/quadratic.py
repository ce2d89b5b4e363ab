"""A random quadratic function of one of five choices: bias, noise and direction of one estimate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gumbelrl.policies import diagnose

from estimator_problems.variants import by_temperature, temperatures

TITLE = "A quadratic"
QUESTION = (
    "64 random policies over 5 choices, each with a random quadratic value function. Bias and noise (standard "
    "deviation of one estimate) over the size of the exact gradient; the cosine is of the gradient of all 64 together, "
    "one estimate each. Bias below .01 cannot be told from 0 here."
)
CHOICES, STATES, ESTIMATES = 5, 64, 8192


def measure(name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(STATES, 1, CHOICES, generator=generator)
    weight = torch.randn(STATES, CHOICES, generator=generator)
    matrix = torch.randn(STATES, CHOICES, CHOICES, generator=generator)

    def value(action: Tensor) -> Tensor:
        x = action[..., 0, :]
        return (x * weight).sum(-1) + torch.einsum("...i,...ij,...j->...", x, matrix, x)

    found = {}
    for temperature in temperatures(name):
        result = diagnose(
            name,
            logits,
            value,
            temperature=temperature,
            generator=torch.Generator().manual_seed(1),
            num_estimates=ESTIMATES,
        )
        found[str(temperature)] = {
            "bias": round((result.bias / result.gradient_norm).item(), 4),
            "noise": round((result.variance.sqrt() / result.gradient_norm).item(), 4),
            "cosine": round(result.cosine.item(), 4),
        }
    return found


def table(found: dict[str, Any]) -> str:
    lines = ["| estimator | bias | noise | cosine |", "|---|---|---|---|"]
    for name, rows in found.items():
        for label, row in by_temperature(name, rows):
            lines.append(f"| `{label}` | {row['bias']:.3f} | {row['noise']:.2f} | {row['cosine']:.3f} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    points = [
        (label, row["bias"], row["noise"]) for name, rows in found.items() for label, row in by_temperature(name, rows)
    ]
    shown = [each for each in points if each[1] <= 1.05]
    axes.scatter([bias for _, bias, _ in shown], [noise for *_, noise in shown], s=18)
    for (bias, noise), labels in _neighbours(shown).items():
        axes.annotate(", ".join(labels), (bias, noise), xytext=(5, 2), textcoords="offset points", fontsize=6)
    axes.set_xlabel("bias / |gradient|")
    axes.set_ylabel("noise / |gradient|")
    axes.set_xlim(right=1.3)
    axes.set_title(f"{TITLE}: bias against noise" + (" (bias above 1 not shown)" if len(shown) < len(points) else ""))


def _neighbours(points: list[tuple[str, float, float]]) -> dict[tuple[float, float], list[str]]:
    """Return the labels of points so near to each other that they share one, by the first of them."""
    groups: dict[tuple[float, float], list[str]] = {}
    for label, bias, noise in points:
        near = ((b, n) for b, n in groups if abs(b - bias) < 0.08 and abs(n - noise) < 0.17)
        groups.setdefault(next(near, (bias, noise)), []).append(label)
    return groups
