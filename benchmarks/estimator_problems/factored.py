"""Many groups and a value that adds up over them: how does the noise grow?"""

from __future__ import annotations

import math
from typing import Any

import torch

from gumbelrl.policies import diagnose

TITLE = "The factored bandit"
QUESTION = (
    "N groups of 5 choices, each choice worth a standard normal number, the value their sum; 16 such functions at the "
    "uniform policy. Noise of one estimate (standard deviation) over the size of the gradient."
)
GROUP_COUNTS, CHOICES, STATES = (1, 4, 16, 64, 256), 5, 16


class Separable:
    """Σ_n w_n · x_n with standard normal weights."""

    def __init__(self, groups: int, choices: int, states: int) -> None:
        self.choice_values = torch.randn(states, groups, choices, generator=torch.Generator().manual_seed(groups))

    def __call__(self, action: torch.Tensor) -> torch.Tensor:
        return (self.choice_values * action).sum((-2, -1))


def measure(name: str) -> dict[str, Any]:
    row = {}
    for groups in GROUP_COUNTS:
        result = diagnose(
            name,
            torch.zeros(STATES, groups, CHOICES),
            Separable(groups, CHOICES, STATES),
            generator=torch.Generator().manual_seed(0),
            num_estimates=256,
        )
        row[str(groups)] = round((result.variance.sqrt() / result.gradient_norm).item(), 3)
    return row


def noise_of_reinforce(groups: int) -> float:
    """Return the same by enumeration of what is left to chance: in closed form.

    At the uniform policy, group n of the estimate is (S + v_n)(D_n − 1/K), where S is the sum of the other groups'
    values. With M its mean and V its variance, and σ² the variance of v_n, the second moment of the group's estimate is
    E[(S + v)²|D − p|²] = (1 − 1/K)(V + E[(M + v)²]); less the squared gradient.
    """
    values = Separable(groups, CHOICES, STATES).choice_values.double()
    k = CHOICES
    means, variances = values.mean(-1), values.var(-1, unbiased=False)
    other_mean = means.sum(-1, keepdim=True) - means
    other_variance = variances.sum(-1, keepdim=True) - variances
    second = (1 - 1 / k) * (other_variance + (other_mean.unsqueeze(-1) + values).square().mean(-1))
    gradient = ((values - means.unsqueeze(-1)) / k).square().sum(-1)
    noise = (second - gradient).sum(-1).mean()
    return math.sqrt(noise / gradient.sum(-1).mean())


def table(found: dict[str, Any]) -> str:
    lines = [
        "| estimator | " + " | ".join(f"N = {n}" for n in GROUP_COUNTS) + " |",
        "|---|" + "---|" * len(GROUP_COUNTS),
    ]
    for name, row in found.items():
        lines.append(f"| `{name}` | " + " | ".join(f"{each:.2f}" for each in row.values()) + " |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    # Estimators with the same numbers share a line and its label.
    lines: dict[tuple[float, ...], list[str]] = {}
    for name, row in found.items():
        rounded = tuple(round(each, 1) for each in row.values())
        lines.setdefault(rounded, []).append(name)
    for values, names in sorted(lines.items(), key=lambda each: -each[0][-1]):
        if values[-1] > 0:
            axes.plot(GROUP_COUNTS, values, marker="o", markersize=3, label=", ".join(names))
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    axes.set_xticks(GROUP_COUNTS, [str(n) for n in GROUP_COUNTS])
    axes.set_xlabel("groups N")
    axes.set_ylabel("noise / |gradient|")
    silent = ", ".join(name for values, names in lines.items() if values[-1] == 0 for name in names)
    axes.set_title(f"{TITLE} (without any noise: {silent})", fontsize=8)
    axes.legend(fontsize=7)
