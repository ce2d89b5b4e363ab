"""The parity of bits, as a network knows it that has seen the vertices only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gumbelrl.agents.networks import StackedMLP

from estimator_problems.fitted_network import climb, fit
from estimator_problems.variants import by_temperature, temperatures

TITLE = "Parity"
QUESTION = (
    "A tanh network of 32 units fitted to the parity of 2 or 4 bits (±1) at the vertices; 10 networks and policies. "
    "The probability of odd parity that a policy reaches in 400 steps of Adam, mean and range; 1 is the optimum, .5 is "
    "chance."
)
SEEDS, BITS = 10, (2, 4)


@cache
def _critic(bits: int) -> tuple[Tensor, Tensor, StackedMLP, float]:
    vertices = torch.cartesian_prod(*[torch.arange(2)] * bits)
    actions = nn.functional.one_hot(vertices, 2).float()
    target = (vertices.sum(1) % 2).float() * 2.0 - 1.0
    return actions, target, *fit(actions, target, seeds=SEEDS, hidden=(32,), activation="tanh")


def measure(name: str) -> dict[str, Any]:
    found = {}
    for temperature in temperatures(name):
        found[str(temperature)] = {}
        for bits in BITS:
            actions, target, network, _ = _critic(bits)
            logits = climb(name, network, seeds=SEEDS, shape=(bits, 2), temperature=temperature, steps=400)
            score = (torch.log_softmax(logits, -1) * actions).sum((-2, -1))
            odd = (score.exp() * (target > 0)).sum(1)
            found[str(temperature)][str(bits)] = [round(each, 3) for each in sorted(odd.tolist())]
    return found


def table(found: dict[str, Any]) -> str:
    lines = ["| estimator | 2 bits | 4 bits |", "|---|---|---|"]
    for name, rows in found.items():
        for label, row in by_temperature(name, rows):
            cells = [f"{sum(each) / len(each):.3f} ({each[0]:.2f}–{each[-1]:.2f})" for each in row.values()]
            lines.append(f"| `{label}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    rows = [(label, row["4"]) for name, each in found.items() for label, row in by_temperature(name, each)]
    figure.set_size_inches(7, 1.5 + 0.13 * len(rows))
    for height, (_, values) in enumerate(rows):
        axes.axhline(height, color="0.9", linewidth=0.8, zorder=0)
        axes.scatter(values, [height] * len(values), s=8, alpha=0.6, color="tab:blue")
        axes.scatter([sum(values) / len(values)], [height], marker="|", s=80, color="tab:red")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=6)
    axes.set_xlabel("probability of odd parity, 4 bits: each policy (blue) and the mean (red)")
