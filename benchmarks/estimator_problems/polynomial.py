"""The binary polynomial programme: 128 bits, minimise the mean of |x − .45|^p."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from gumbelrl.policies import ESTIMATORS

from estimator_problems.variants import by_temperature, temperatures

TITLE = "The binary polynomial programme"
QUESTION = (
    "128 independent bits, minimise the mean of |x − .45|^p (Liu et al. 2023, arXiv:2304.08612, section 5.1): 8,000 "
    "steps of Adam at 1e-3, batches of 64, from uniform. The expected objective at the end; ± is one standard "
    "error over bits. The optimum is all zeros. A deterministic relaxation and straight-through stay where f′ changes "
    "its sign, at .45."
)
POWERS, BITS, BATCH, STEPS = (1.5, 2.0, 3.0), 128, 64, 8000
SCALE = 100.0  # the gradient of a mean over bits is tiny beside Adam's epsilon
LONGEST_S = 600.0
EVERY_POWER = [(1.0, power) for power in POWERS]
# (temperature, power) of those that would take many minutes with all of them; an empty list leaves one out.
REDUCED: dict[str, list[tuple[float, float]]] = {
    "gumbel-rao": [(0.1, 2.0)],
    "rebar": [(1.0, 2.0)],
    "relax": [(1.0, 2.0)],
    "rloo": [(1.0, 2.0)],
    "reinmax": EVERY_POWER,
    "decoupled": EVERY_POWER,
    "unordered-set": [],
    "sum-and-sample": [],
}


class Polynomial:
    """−|x − .45|^p, the mean over bits, one power for each entry of the first axis of the batch."""

    def __init__(self, powers: tuple[float, ...]) -> None:
        self.powers = powers
        table = torch.tensor([[0.45**p, 0.55**p] for p in powers])
        self.choice_values = (-table / BITS)[:, None, None, :].expand(-1, 1, BITS, 2)

    def _raise(self, distance: Tensor, row: int) -> Tensor:
        return distance.pow(self.powers[row])

    def __call__(self, action: Tensor) -> Tensor:
        distance = (action[..., 1] - 0.45).abs()
        rows = [self._raise(each, row) for row, each in enumerate(distance.unbind(-3))]
        return -torch.stack(rows, dim=-3).mean(-1)


class _Scaled:
    def __init__(self, value: Polynomial) -> None:
        self.value = value

    def __call__(self, action: Tensor) -> Tensor:
        return SCALE * self.value(action)


def measure(name: str) -> dict[str, Any] | None:
    """Return temperature -> power -> (objective, standard error); None where it would take too long."""
    colder = [(t, 2.0) for t in temperatures(name, (1.0, 0.1))[1:]]
    settings = REDUCED.get(name, EVERY_POWER + colder)
    final = _descend(name, settings) if settings else None
    if final is None:
        return None
    found: dict[str, Any] = {}
    for (temperature, power), result in zip(settings, final, strict=True):
        found.setdefault(str(temperature), {})[str(power)] = result
    return found


def _descend(name: str, settings: list[tuple[float, float]]) -> list[tuple[float, float]] | None:
    """Descend in all settings at once, a row of logits for each."""
    each_temperature, powers = zip(*settings, strict=True)
    value = Polynomial(powers)
    temperature = torch.tensor(each_temperature).view(-1, 1, 1, 1)
    logits = torch.zeros(len(value.powers), 1, BITS, 2, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    options, control = _control(name)
    target = value if name == "exact" else _Scaled(value)
    optimizer = torch.optim.Adam([{"params": [logits]}, *([{"params": control}] if control else [])], lr=1e-3)
    start = time.perf_counter()
    for step in range(STEPS):
        many = logits.expand(-1, BATCH, -1, -1)
        estimate = ESTIMATORS[name](many, target, temperature=temperature, generator=generator, **options)
        loss = -estimate.objective.mean(1).sum() * (SCALE if name == "exact" else 1.0)
        if estimate.auxiliary is not None:
            loss = loss + estimate.auxiliary.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 40 and (time.perf_counter() - start) * STEPS / 40 > LONGEST_S:
            return None
    objective = -(torch.softmax(logits.detach(), -1) * value.choice_values).sum(-1)[:, 0] * BITS  # [row, bit]
    errors = objective.std(1) / math.sqrt(BITS)
    return [(round(m, 5), round(e, 5)) for m, e in zip(objective.mean(1).tolist(), errors.tolist(), strict=True)]


def _control(name: str) -> tuple[dict[str, Any], list[nn.Parameter]]:
    """A small network for estimators with a learned control variate."""
    if not ESTIMATORS[name].learns:
        return {}, []
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2 * BITS, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.zeros_(network[-1].weight)
    return {"control": lambda action: network(action.flatten(-2)).squeeze(-1)}, list(network.parameters())


def table(found: dict[str, Any]) -> str:
    lines = [
        "| estimator | " + " | ".join(f"p = {p:g} (optimum {0.45**p:.4f})" for p in POWERS) + " |",
        "|---|" + "---|" * len(POWERS),
    ]
    for name, rows in found.items():
        if rows is None:
            lines.append(f"| `{name}` | left out: minutes | | |")
            continue
        for label, row in by_temperature(name, rows):
            cells = [f"{row[str(p)][0]:.4f} ± {row[str(p)][1]:.4f}" if str(p) in row else "–" for p in POWERS]
            lines.append(f"| `{label}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(found: dict[str, Any], figure: Any) -> None:
    axes = figure.subplots()
    rows = [(label, row) for name, each in found.items() if each for label, row in by_temperature(name, each)]
    rows = sorted(((label, *row["2.0"]) for label, row in rows if "2.0" in row), key=lambda each: each[1])
    for height, (_, objective, error) in enumerate(rows):
        axes.errorbar(objective, height, xerr=2 * error, fmt="o", markersize=3, color="tab:blue")
    axes.axvline(0.2025, color="tab:green", linewidth=1, label="optimum .2025: all zeros")
    axes.axvline(0.2475, color="tab:red", linewidth=1, label="x = .45, the relaxed optimum: .2475")
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], fontsize=7)
    axes.set_xlabel("expected |x − .45|² after 8,000 steps, ± 2 standard errors")
    axes.legend(fontsize=7)
