"""What the estimators do: five problems with known answers, and what a call costs.

    python benchmarks/estimators.py                  # all of it, under 10 minutes on two cores
    python benchmarks/estimators.py --only curvature # one of: polynomial curvature factored parity quadratic cost
    python benchmarks/estimators.py --docs           # write the tables and plots of docs/estimators.md from the JSON

Results go to benchmarks/results/estimators.json; every estimator of the registry takes part. The problems:

- polynomial: 128 independent bits, minimise the mean of |x − .45|^p (Liu et al. 2023, arXiv:2304.08612, section 5.1). The
  optimum is all zeros. 8,000 steps of Adam at 1e-3, batches of 64.
- curvature: two arms, value r·x + c (1 − ‖x‖²), gap 1: the second term vanishes at the vertices. Where does the expected
  gradient vanish, and does it pull there or push away?
- factored: N groups of 5, a separable value: the noise of an estimate over the size of the gradient, as N grows.
- parity: a tanh network fitted to the parity of 4 bits at the 16 vertices, then climbed. 10 networks.
- quadratic: a random quadratic function of one of 5 choices: bias, variance and cosine of one estimate.
- cost: seconds of a call, forward and backward, over those of torch's `gumbel_softmax` beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from torch import Tensor, nn

from gumbelrl.agents.networks import FlatParameters, StackedMLP
from gumbelrl.policies import ESTIMATORS, diagnose
from gumbelrl.random import RandomStreams

RESULTS = Path(__file__).parent / "results" / "estimators.json"
DOCS = Path(__file__).parents[1] / "docs"
LONGEST_S = 75.0  # of one estimator on the polynomial problem; slower ones are left out, and said to be

Variant = tuple[str, float]


def names() -> list[str]:
    return list(ESTIMATORS)


def variants() -> list[Variant]:
    """Every estimator at temperature 1, and those that use one at .5 and .1 as well."""
    return [
        (name, t)
        for name in ESTIMATORS
        for t in (1.0, 0.5, 0.1)
        if t == 1.0 or ESTIMATORS[name].temperature != "unused"
    ]


def label(variant: Variant) -> str:
    name, temperature = variant
    return name if ESTIMATORS[name].temperature == "unused" else f"{name} τ={temperature:g}"


# Polynomial -----------------------------------------------------------------------------------------------------------

POWERS = (1.5, 2.0, 3.0)


class Polynomial:
    """−|x − .45|^p, the mean over bits; one power for each entry of the first axis of the batch."""

    def __init__(self, powers: Tensor, bits: int) -> None:
        self.powers, self.bits = powers.view(-1, 1, 1), bits
        ends = torch.tensor([0.45, 0.55])
        self.choice_values = (-(ends ** powers.view(-1, 1, 1, 1)) / bits).expand(-1, 1, bits, 2)

    def __call__(self, action: Tensor) -> Tensor:
        return -(action[..., 1] - 0.45).abs().pow(self.powers).mean(-1)


def polynomial(*, bits: int = 128, batch: int = 64, steps: int = 8000) -> dict[str, Any]:
    """Return the final objective by variant and power; lower is better."""
    results: dict[str, Any] = {}
    for name in ESTIMATORS:
        temperatures = [t for each, t in variants() if each == name]
        found = _descend_polynomial(name, temperatures, bits, batch, steps)
        for index, t in enumerate(temperatures):
            results[label((name, t))] = None if found is None else found[index].tolist()
        print(f"polynomial  {name:18} {'too slow' if found is None else found[:, 1].tolist()}", flush=True)
    return {"powers": POWERS, "optimum": [0.45**p for p in POWERS], "objective": results}


def _descend_polynomial(name: str, temperatures: list[float], bits: int, batch: int, steps: int) -> Tensor | None:
    """Descend for all temperatures × powers at once, a row of logits for each."""
    rows = len(temperatures) * len(POWERS)
    value = Polynomial(torch.tensor(POWERS * len(temperatures)), bits)
    temperature = torch.tensor(temperatures).repeat_interleave(len(POWERS)).view(-1, 1, 1, 1)
    logits = torch.zeros(rows, 1, bits, 2, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    options, control = _control(name, bits)
    optimizer = torch.optim.Adam([{"params": [logits]}, *([{"params": control}] if control else [])], lr=1e-3)
    start = time.perf_counter()
    for step in range(steps):
        many = logits.expand(-1, batch, -1, -1)
        # Scaled up, since the gradient of a mean over bits is tiny beside Adam's epsilon.
        estimate = (
            ESTIMATORS[name](many, lambda a: 100.0 * value(a), temperature=temperature, generator=generator, **options)
            if name != "exact"
            else ESTIMATORS[name](many, value)
        )
        loss = -estimate.objective.mean(1).sum()
        if estimate.auxiliary is not None:
            loss = loss + estimate.auxiliary.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 20 and (time.perf_counter() - start) * steps / 20 > LONGEST_S:
            return None
    probs = torch.softmax(logits.detach(), -1)
    return -(probs * value.choice_values).sum((-2, -1)).view(len(temperatures), len(POWERS))


def _control(name: str, bits: int) -> tuple[dict[str, Any], list[nn.Parameter]]:
    """A small network for estimators with a learned control variate."""
    if not ESTIMATORS[name].learns:
        return {}, []
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2 * bits, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.zeros_(network[-1].weight)
    return {"control": lambda action: network(action.flatten(-2)).squeeze(-1)}, list(network.parameters())


# Curvature ------------------------------------------------------------------------------------------------------------


def curvature(*, samples: int = 40_000) -> dict[str, Any]:
    """Return the fixed points of p(better arm) strictly inside (0, 1), by variant and sign of c."""
    grid = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    logits = torch.stack([grid.log(), (1 - grid).log()], -1)[:, None, None, :]
    found: dict[str, Any] = {}
    for variant in variants():
        name, temperature = variant
        entry = {}
        for c in (1.0, -1.0):

            def value(action: Tensor, c: float = c) -> Tensor:
                return action[..., 0, 0] + c * (1.0 - action.square().sum((-2, -1)))

            many = (
                logits.expand(-1, samples if ESTIMATORS[name].noise != "none" else 1, -1, -1).clone().requires_grad_()
            )
            # Common random numbers: the same noise at every p makes the mean a smooth function of p.
            objective = ESTIMATORS[name](many, value, temperature=temperature, generator=_Repeated(len(grid))).objective
            drift = torch.autograd.grad(objective.sum(), many)[0][..., 0, 0].mean(1)
            entry[f"c={c:+g}"] = _crossings(grid, drift)
        found[label(variant)] = entry
        print(f"curvature   {label(variant):22} {entry}", flush=True)
    return found


class _Repeated(RandomStreams):
    """The same stream for every row."""

    def __init__(self, rows: int) -> None:
        super().__init__([0] * rows)


def _crossings(grid: Tensor, drift: Tensor) -> list[dict[str, Any]]:
    points = []
    for i in range(len(grid) - 1):
        before, after = drift[i].item(), drift[i + 1].item()
        if before * after < 0:
            p = grid[i] + (grid[i + 1] - grid[i]) * before / (before - after)
            points.append({"p": round(p.item(), 4), "attracts": before > 0})
    return points


# Factored -------------------------------------------------------------------------------------------------------------


class Separable:
    """Σ_n w_n · x_n with standard normal weights."""

    def __init__(self, groups: int, choices: int, states: int) -> None:
        self.choice_values = torch.randn(states, groups, choices, generator=torch.Generator().manual_seed(groups))

    def __call__(self, action: Tensor) -> Tensor:
        return (self.choice_values * action).sum((-2, -1))


def factored(
    *, group_counts: tuple[int, ...] = (1, 4, 16, 64, 256), choices: int = 5, states: int = 16
) -> dict[str, Any]:
    """Return noise over |gradient| at the uniform policy, by estimator and number of groups."""
    found: dict[str, Any] = {}
    for name in ESTIMATORS:
        row = []
        for groups in group_counts:
            result = diagnose(
                name,
                torch.zeros(states, groups, choices),
                Separable(groups, choices, states),
                generator=torch.Generator().manual_seed(0),
                num_estimates=256,
            )
            row.append((result.variance.sqrt() / result.gradient_norm).item())
        found[name] = row
        print(f"factored    {name:18} {[round(each, 2) for each in row]}", flush=True)
    return {"groups": group_counts, "noise_over_gradient": found}


# Parity ---------------------------------------------------------------------------------------------------------------


def parity(*, seeds: int = 10, bits: int = 4, steps: int = 400, batch: int = 64) -> dict[str, Any]:
    """Return the probability of odd parity that each of `seeds` policies reaches, by variant; 1 is the optimum."""
    vertices = torch.cartesian_prod(*[torch.arange(2)] * bits)
    actions = nn.functional.one_hot(vertices, 2).float()
    target = (vertices.sum(1) % 2).float() * 2.0 - 1.0
    critic = _fit_parity(actions, target, seeds)

    def value(action: Tensor) -> Tensor:
        return critic(action.flatten(-2)).squeeze(-1)

    fit = (value(actions.expand(seeds, -1, -1, -1)) - target).abs().max().item()
    found: dict[str, Any] = {}
    for variant in variants():
        name, temperature = variant
        streams = RandomStreams(range(100, 100 + seeds))
        logits = (0.1 * streams.normal(1, bits, 2)).requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(steps):
            estimate = ESTIMATORS[name](
                logits.expand(-1, batch, -1, -1), value, temperature=temperature, generator=streams
            )
            optimizer.zero_grad()
            (-estimate.objective.mean(1).sum()).backward()
            optimizer.step()
        score = (torch.log_softmax(logits.detach(), -1) * actions).sum((-2, -1))
        odd = (score.exp() * (target > 0)).sum(1)
        found[label(variant)] = sorted(odd.tolist())
        print(f"parity      {label(variant):22} mean {odd.mean():.3f}", flush=True)
    return {"largest_error_of_fit": fit, "odd": found}


def _fit_parity(actions: Tensor, target: Tensor, seeds: int) -> StackedMLP:
    inputs = actions.flatten(1).expand(seeds, -1, -1)
    critic = StackedMLP(
        RandomStreams(range(seeds)), inputs.shape[-1], 1, hidden=(32,), activation="tanh", layer_norm=False
    )
    parameters = FlatParameters([critic], num_members=seeds)
    optimizer = torch.optim.Adam([parameters.flat], lr=1e-2)
    for _ in range(3000):
        loss = (critic(inputs).squeeze(-1) - target).square().mean(1).sum()
        parameters.flat.grad = parameters.gradient(loss)
        optimizer.step()
    return critic


# Quadratic ------------------------------------------------------------------------------------------------------------


def quadratic(*, choices: int = 5, states: int = 64, estimates: int = 8192) -> dict[str, Any]:
    """Return bias and noise over |gradient|, and the cosine of one estimate, for random quadratics and policies."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(states, 1, choices, generator=generator)
    weight = torch.randn(states, choices, generator=generator)
    matrix = torch.randn(states, choices, choices, generator=generator)

    def value(action: Tensor) -> Tensor:
        x = action[..., 0, :]
        return (x * weight).sum(-1) + torch.einsum("...i,...ij,...j->...", x, matrix, x)

    found = {}
    for variant in variants():
        name, temperature = variant
        result = diagnose(
            name,
            logits,
            value,
            temperature=temperature,
            generator=torch.Generator().manual_seed(1),
            num_estimates=estimates,
        )
        found[label(variant)] = {
            "bias": (result.bias / result.gradient_norm).item(),
            "noise": (result.variance.sqrt() / result.gradient_norm).item(),
            "cosine": result.cosine.item(),
        }
        print(
            f"quadratic   {label(variant):22} { ({k: round(v, 3) for k, v in found[label(variant)].items()}) }",
            flush=True,
        )
    return found


# Cost -----------------------------------------------------------------------------------------------------------------

SHAPES = ((64, 1, 4), (1024, 1, 4), (16384, 1, 4), (1024, 1, 64), (1024, 1, 512), (1024, 16, 4))


def cost(*, repeats: int = 15) -> dict[str, Any]:
    """Return the median time of a call over that of torch's gumbel_softmax in the same round, by shape."""
    found: dict[str, Any] = {name: [] for name in ESTIMATORS}
    reference = []
    for shape in SHAPES:
        logits = torch.randn(shape, requires_grad=True)
        value = Separable(*shape[1:], shape[0])
        calls: dict[str, Callable[[], Tensor]] = {
            "torch": lambda logits=logits, value=value: value(nn.functional.gumbel_softmax(logits, hard=True))
        }
        for name in ESTIMATORS:
            calls[name] = lambda name=name, logits=logits, value=value: ESTIMATORS[name](logits, value).objective
        times = _interleaved(calls, logits, repeats)
        reference.append(times["torch"])
        for name in ESTIMATORS:
            found[name].append(times[name] / times["torch"])
        print(f"cost        {shape} torch {times['torch'] * 1e6:.0f} µs", flush=True)
    return {"shapes": SHAPES, "torch_s": reference, "ratio": found}


def _interleaved(calls: dict[str, Callable[[], Tensor]], logits: Tensor, repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            torch.autograd.grad(call().sum(), logits)
            if repeat >= 2:  # warm
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


# Tables ---------------------------------------------------------------------------------------------------------------


def property_table() -> str:
    """Return what the registry declares, as Markdown."""
    lines = [
        "| `--policy` | exact for | slope | vertices only | noise | evaluations | temperature | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in ESTIMATORS.items():
        yes = ("no", "yes")
        lines.append(
            f"| `{name}` | {each.exact_on} | {yes[each.pathwise]} | {yes[each.one_hot]} | {each.noise} | "
            f"{each.evaluations} | {each.temperature} | {each.paper} |"
        )
    return "\n".join(lines)


PROBLEMS = {
    "quadratic": quadratic,
    "curvature": curvature,
    "factored": factored,
    "parity": parity,
    "polynomial": polynomial,
    "cost": cost,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--docs", action="store_true", help="run nothing, write the tables and plots")
    options = parser.parse_args()
    if options.docs:
        from estimator_pages import write_pages

        write_pages(json.loads(RESULTS.read_text()), DOCS)
        return
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.only:
        start = time.perf_counter()
        found = PROBLEMS[name]()
        results[name] = {"found": found, "seconds": round(time.perf_counter() - start, 1), **provenance()}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
