"""What a call of an estimator costs: against plain torch written by hand, against torch's own, and while training.

    python benchmarks/estimator_speed.py                   # about 15 minutes on one core, most of it compilation
    python benchmarks/estimator_speed.py --only plain      # one of: plain scaling diagnostics

- plain: forward and backward, over the plain expression of the same mathematics (`plain_estimators.py`), eager and
  compiled; and `gumbel` over `torch.nn.functional.gumbel_softmax`.
- scaling: over torch's `gumbel_softmax`, as the batch and the number of choices grow.
- diagnostics: the share of training time that measuring bias and variance takes at the default interval.

One thread; medians of alternating calls. Results go to benchmarks/results/estimator_speed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from plain_estimators import PLAIN
from provenance import provenance
from torch import Tensor, nn

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer
from gumbelrl.envs import make
from gumbelrl.policies import ESTIMATORS, ActionLayout

RESULTS = Path(__file__).parent / "results" / "estimator_speed.json"
PLAIN_SHAPES = ((4096, 1, 18), (256, 64, 5))
SCALING_SHAPES = ((64, 1, 4), (1024, 1, 4), (16384, 1, 4), (1024, 1, 64), (1024, 1, 512), (1024, 16, 4))


class Quadratic:
    """A value function that is neither linear nor free: `w·x + (v·x)²`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        generator = torch.Generator().manual_seed(0)
        self.linear, self.square = torch.randn(2, *shape[1:], generator=generator)

    def __call__(self, action: Tensor) -> Tensor:
        return (action * self.linear).sum((-2, -1)) + (action * self.square).sum((-2, -1)).square()


class Separable:
    """A value for each choice, summed over groups: what `exact` needs for many groups."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.choice_values = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def __call__(self, action: Tensor) -> Tensor:
        return (action * self.choice_values).sum((-2, -1))


def interleaved(calls: dict[str, Callable[[], Any]], repeats: int, warm: int = 3) -> dict[str, list[float]]:
    """Return the seconds of each call, taken in turn so that a change of the machine's speed meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + warm):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat >= warm:
                times[name].append(time.perf_counter() - start)
    return times


def ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Return the median over rounds of one time over the other."""
    return round(statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True)), 3)


# Compiled, a loop over 64 groups is unrolled, which takes many minutes for ours and for the plain expression alike.
NOT_COMPILED = {("sum-and-sample", 64), ("unordered-set", 64)}


def plain(*, repeats: int = 31) -> dict[str, Any]:
    """Return name -> shape -> ratios over the plain expression, eager and compiled."""
    found: dict[str, Any] = {}
    for name in (each for each in ESTIMATORS if each in PLAIN):
        found[name] = {}
        for shape in PLAIN_SHAPES:
            several = shape[1] > 1
            value = Separable(shape) if name == "exact" and several else Quadratic(shape)
            logits = torch.randn(shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
            row = {}
            for mode in ("eager", "compiled"):
                if mode == "compiled" and (name, shape[1]) in NOT_COMPILED:
                    continue
                torch._dynamo.reset()
                calls = _pair(name, logits, value, compiled=mode == "compiled")
                row[mode] = ratio(interleaved(calls, repeats), "ours", "plain")
                if name == "gumbel":
                    calls["plain"] = _gradient_of(_torch_gumbel, logits, value, compiled=mode == "compiled")
                    row[f"{mode} over torch"] = ratio(interleaved(calls, repeats), "ours", "plain")
            found[name][str(shape)] = row
            print(f"plain        {name:18} {shape} {row}", flush=True)
    return found


def _torch_gumbel(logits: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    return value(nn.functional.gumbel_softmax(logits, hard=True))


def _pair(
    name: str, logits: Tensor, value: Callable[[Tensor], Tensor], *, compiled: bool
) -> dict[str, Callable[[], Any]]:
    def ours(logits: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        return ESTIMATORS[name](logits, value).objective

    return {
        "ours": _gradient_of(ours, logits, value, compiled=compiled),
        "plain": _gradient_of(PLAIN[name], logits, value, compiled=compiled),
    }


def _gradient_of(
    function: Callable[..., Tensor], logits: Tensor, value: Callable[[Tensor], Tensor], *, compiled: bool
) -> Callable[[], Any]:
    def total(logits: Tensor) -> Tensor:
        return function(logits, value).sum()

    run = torch.compile(total) if compiled else total
    return lambda: torch.autograd.grad(run(logits), logits)


def scaling(*, repeats: int = 15) -> dict[str, Any]:
    """Return name -> shape -> the time of a call over that of torch's gumbel_softmax in the same round."""
    found: dict[str, Any] = {name: {} for name in ESTIMATORS}
    for shape in SCALING_SHAPES:
        logits = torch.randn(shape, requires_grad=True)
        value = Separable(shape)
        calls = {name: _pair_ours(name, logits, value) for name in ESTIMATORS}
        calls["torch"] = _gradient_of(_torch_gumbel, logits, value, compiled=False)
        times = interleaved(calls, repeats)
        for name in ESTIMATORS:
            found[name][str(shape)] = ratio(times, name, "torch")
        print(f"scaling      {shape} torch {statistics.median(times['torch']) * 1e6:.0f} µs", flush=True)
    return found


def _pair_ours(name: str, logits: Tensor, value: Callable[[Tensor], Tensor]) -> Callable[[], Any]:
    return lambda: torch.autograd.grad(ESTIMATORS[name](logits, value).objective.sum(), logits)


def diagnostics(*, iterations: int = 16, repeats: int = 5) -> dict[str, Any]:
    """Return name -> critic -> share of training time that diagnostics take at the default interval.

    One measurement is timed against one iteration; over the interval it is spread.
    """
    found: dict[str, Any] = {}
    for name in ("gumbel", "softmax", "reinforce", "gumbel-rao", "relax"):
        found[name] = {}
        for critic in ("linear", "joint"):
            shares = []
            for _ in range(repeats):
                config = replace(ActorCriticConfig(), diagnostics_interval=0)
                trainer, seconds, measuring = _trainer(name, critic, config), [], []
                trainer.iterate()
                rollout = trainer.collect()
                trainer.agent.diagnose(rollout)
                for _ in range(iterations // 4):
                    start = time.perf_counter()
                    trainer.iterate()
                    middle = time.perf_counter()
                    trainer.agent.diagnose(rollout)
                    seconds.append(middle - start)
                    measuring.append(time.perf_counter() - middle)
                interval = ActorCriticConfig().diagnostics_interval
                shares.append(statistics.median(measuring) / (interval * statistics.median(seconds)))
            found[name][critic] = round(statistics.median(shares), 4)
        print(f"diagnostics  {name:18} {found[name]}", flush=True)
    return found


def _trainer(policy: str, critic: str, config: ActorCriticConfig) -> Trainer:
    env = make("CartPole-v1", num_envs=config.num_envs)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=4,
        seeds=(0,),
        estimator=policy,
        critic=critic,
    )
    return Trainer(agent, env, seeds=(0,), total_steps=10_000_000, temperature=lambda progress, step: 1.0)


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"diagnostics": diagnostics, "scaling": scaling, "plain": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in options.only:
        found = PARTS[name]()
        results[name] = {"found": found, **provenance()}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
