"""Which estimator solves which environment: predictions against runs, ten seeds a cell.

    python benchmarks/separation.py                    # about an hour of one core
    python benchmarks/separation.py --only corridor    # some cells, keeping the others' results
    python benchmarks/separation.py --table            # the table of the results at hand, as Markdown

The predictions stand in benchmarks/separation_predictions.py, which is older than any result. `curvature` climbs the
environment's own differentiable `value`; everywhere else the actor-critic agent learns a critic from play, with its
defaults but for the size of a rollout, and nothing tuned per estimator. A seed has solved a cell when the policy is
within 5% of the way from uniform play to the optimum (5% of the optimum in the corridor, where uniform play is good):
greedy, since the agent holds its entropy at a target, but sampled in the corridor, whose optimum is mixed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from provenance import provenance
from separation_predictions import PREDICTIONS

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.envs import NativeEnv, make, random_actions
from gumbelrl.policies import ESTIMATORS, ActionLayout
from gumbelrl.random import RandomStreams

RESULTS = Path(__file__).parent / "results" / "separation.json"
SEEDS = tuple(range(10))
ENOUGH = 0.95


@dataclass(frozen=True)
class Cell:
    """An environment and how it is learned; without a critic its `value` is climbed."""

    env: str
    options: dict[str, Any] = field(default_factory=dict)
    critic: str | None = "linear"
    steps: int = 32_768
    rollout_steps: int = 8
    episodes: int = 100  # of each seed's evaluation
    torso: str = "mlp"
    target_entropy: float = 0.3
    greedy: bool = True
    score: Callable[[torch.Tensor, float, float], torch.Tensor] = lambda found, random, best: (
        (found - random) / (best - random)
    )


def within_share(found: torch.Tensor, random: float, best: float) -> torch.Tensor:
    """Return 1 less the distance to the optimum as a share of it."""
    return 1.0 - (best - found) / abs(best)


CELLS: dict[str, Cell] = {
    "curvature c=+1": Cell("gumbelrl/CurvatureBandit-v0", {"curvature": 1.0}, critic=None),
    "curvature c=-1": Cell("gumbelrl/CurvatureBandit-v0", {"curvature": -1.0}, critic=None),
    "parity": Cell("gumbelrl/ParityBandit-v0", critic="joint", steps=65_536),
    "parity, entropy .05": Cell("gumbelrl/ParityBandit-v0", critic="joint", target_entropy=0.05),
    **{f"factored N={n}": Cell("gumbelrl/FactoredBandit-v0", {"num_groups": n}) for n in (4, 16, 64, 256)},
    "corridor": Cell("gumbelrl/ShortCorridor-v0", rollout_steps=32, greedy=False, score=within_share, episodes=4000),
    "pointer": Cell("gumbelrl/Pointer-v0", torso="pointer", steps=65_536, episodes=4000),
    "deep sea": Cell("gumbelrl/DeepSea-v0", rollout_steps=16),
}


def run(task: tuple[str, str]) -> tuple[str, str, list[float]]:
    """Return the score of each seed for (cell, estimator)."""
    torch.set_num_threads(1)
    cell_name, estimator = task
    cell = CELLS[cell_name]
    scores = climb(cell, estimator) if cell.critic is None else learn(cell, estimator)
    return cell_name, estimator, [round(each, 4) for each in scores.tolist()]


def climb(cell: Cell, estimator: str) -> torch.Tensor:
    """Climb the environment's own value function from near uniform: 500 steps of Adam at .05, batches of 64."""
    env = make(cell.env, num_envs=1, **cell.options)
    layout = ActionLayout.from_space(env.single_action_space)
    streams = RandomStreams(SEEDS)
    logits = (0.1 * streams.normal(1, layout.num_groups, layout.num_choices)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(500):
        estimate = ESTIMATORS[estimator](logits.expand(-1, 64, -1, -1), env.value, generator=streams)
        optimizer.zero_grad()
        (-estimate.objective.mean(1).sum()).backward()
        optimizer.step()
    # The expectation over vertices, not the value of a mean action.
    vertices = layout.enumerate_actions()
    chance = (torch.log_softmax(logits.detach(), -1) * vertices).sum((-2, -1)).exp()
    values = env.value(vertices)
    return cell.score((chance * values).sum(-1), float(values.mean()), env.optimal_return)


def learn(cell: Cell, estimator: str) -> torch.Tensor:
    """Train ten seeds side by side; return their scores over fresh episodes."""
    config = replace(
        ActorCriticConfig(),
        rollout_steps=cell.rollout_steps,
        target_entropy=cell.target_entropy,
        torso=cell.torso,
        diagnostics_interval=0,
    )

    def environments(count: int) -> NativeEnv:
        return make(cell.env, num_envs=count, **cell.options)

    env = environments(len(SEEDS) * config.num_envs)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = ActorCritic(
        config,
        layout=layout,
        num_features=num_features(env.single_observation_space),
        seeds=SEEDS,
        estimator=estimator,
        critic=cell.critic,
        observation_space=env.single_observation_space,
    )
    trainer = Trainer(agent, env, seeds=SEEDS, total_steps=cell.steps, temperature=lambda progress, step: 1.0)
    while not trainer.finished:
        trainer.iterate()
    returns = evaluate(agent, environments, seeds=SEEDS, episodes=cell.episodes, greedy=cell.greedy).mean(1).double()
    return cell.score(returns, random_return(environments(1000)), env.optimal_return)


def random_return(env: NativeEnv, most_steps: int = 1000) -> float:
    """Return the mean return of uniformly random valid play over the first episode of each environment."""
    env.reset(12345)
    generator = torch.Generator().manual_seed(0)
    total, running = torch.zeros(env.num_envs), torch.ones(env.num_envs)
    for _ in range(most_steps):
        step = env.step(random_actions(env, generator))
        total += step.reward * running
        running *= ~(step.terminated | step.truncated)
        if not running.any():
            break
    return float(total.mean())


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return solved seeds by estimator and cell; `!` marks what the prediction did not say."""
    cells = [name for name in CELLS if name in found]
    lines = ["| estimator | " + " | ".join(cells) + " |", "|---|" + "---|" * len(cells)]
    for name in ESTIMATORS:
        row = []
        for cell in cells:
            scores = found[cell].get(name)
            solved = None if scores is None else sum(score >= ENOUGH for score in scores)
            surprise = solved is not None and PREDICTIONS[cell].says(name) != (solved >= 9)
            row.append("–" if solved is None else f"{solved}{' !' if surprise else ''}")
        lines.append(f"| `{name}` | " + " | ".join(row) + " |")
    return "\n".join(lines)


def prediction_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return each prediction, its reason, and how many estimators did as predicted."""
    lines = ["| cell | solved by | because | as predicted | not as predicted |", "|---|---|---|---|---|"]
    for cell, prediction in PREDICTIONS.items():
        who = prediction.solved_by
        named = who if isinstance(who, str) else ", ".join(f"`{name}`" for name in sorted(who))
        right = [n for n, s in found.get(cell, {}).items() if prediction.says(n) == (sum(x >= ENOUGH for x in s) >= 9)]
        wrong = ", ".join(f"`{name}`" for name in found.get(cell, {}) if name not in right) or "–"
        counted = f"{len(right)} of {len(found[cell])}" if cell in found else "not run"
        lines.append(f"| {cell} | {named} | {prediction.because} | {counted} | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS), metavar="CELL")
    parser.add_argument("--policies", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS), metavar="NAME")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"found": {}}
    if not options.table:
        tasks = [(cell, name) for cell in options.only for name in options.policies]
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            for cell, name, scores in pool.imap_unordered(run, tasks):
                results["found"].setdefault(cell, {})[name] = scores
                results |= provenance()
                print(f"{cell:16} {name:18} {scores}", flush=True)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["found"]), end="\n\n")
    print(prediction_table(results["found"]))


if __name__ == "__main__":
    main()
