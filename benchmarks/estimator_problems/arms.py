"""A bandit's arms as a network knows them that has seen one-hot arms only."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.networks import StackedMLP
from gumbelrl.random import RandomStreams

from estimator_problems.fitted_network import climb, fit
from estimator_problems.variants import by_temperature, temperatures

TITLE = "A critic that has seen vertices only"
QUESTION = (
    "A SiLU network of 64 × 64 units fitted to K arms whose values are uniform on (0, 1), at the one-hot arms only; 10 "
    "networks, arms and policies. The value of the policy reached in 400 steps of Adam over that of the best arm: mean "
    "and range."
)
SEEDS, COUNTS = 10, (5, 32)


@cache
def _critic(count: int) -> tuple[Tensor, StackedMLP, float]:
    target = RandomStreams(range(1000, 1000 + SEEDS)).uniform(count)
    actions = torch.eye(count).unsqueeze(1)
    return target, *fit(actions, target, seeds=SEEDS, hidden=(64, 64), activation="silu", steps=1500)


def measure(name: str) -> dict[str, Any]:
    found = {}
    for temperature in temperatures(name):
        found[str(temperature)] = {}
        for count in COUNTS:
            target, network, _ = _critic(count)
            logits = climb(name, network, seeds=SEEDS, shape=(1, count), temperature=temperature, steps=400, batch=32)
            reached = (torch.softmax(logits[:, 0, 0], -1) * target).sum(1) / target.amax(1)
            found[str(temperature)][str(count)] = [round(each, 3) for each in sorted(reached.tolist())]
    return found


def table(found: dict[str, Any]) -> str:
    lines = ["| estimator | " + " | ".join(f"K = {count}" for count in COUNTS) + " |", "|---|---|---|"]
    for name, rows in found.items():
        for label, row in by_temperature(name, rows):
            cells = [f"{sum(each) / len(each):.3f} ({each[0]:.2f}–{each[-1]:.2f})" for each in row.values()]
            lines.append(f"| `{label}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    rows = [(label, row) for name, each in found.items() for label, row in by_temperature(name, each)]
    figure.set_size_inches(7, 1.5 + 0.13 * len(rows))
    for height, (_, row) in enumerate(rows):
        axes.axhline(height, color="0.9", linewidth=0.8, zorder=0)
        for count, colour in zip(COUNTS, ("tab:blue", "tab:orange"), strict=True):
            values = row[str(count)]
            named = f"K = {count}" if height == 0 else None
            axes.scatter(values, [height] * len(values), s=8, alpha=0.6, color=colour, label=named)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=6)
    axes.set_xlabel("value of the policy / value of the best arm")
    axes.legend(fontsize=7)
