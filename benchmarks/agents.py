"""How well each agent learns: seeds that reach a task's goal, with the agent's own defaults or the settings named here.

    python benchmarks/agents.py                        # every task that has no result yet
    python benchmarks/agents.py cartpole/sac --again   # one of them anew
    python benchmarks/agents.py --list
    python benchmarks/agents.py --table                # the tables of the results at hand, as Markdown

All seeds of a task are members of one process, on one thread. What is tuned is tuned on seeds 100 and above
(`--seeds 100..109 --set polyak=0.02`, which writes nothing); what is reported are seeds 0 to 9. Results go to
benchmarks/results/agents.json, an entry a task.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from tasks import Task, build

from gumbelrl.agents.compare.statistics import estimate
from gumbelrl.agents.evaluation import evaluate_both
from gumbelrl.envs import make

RESULTS = Path(__file__).parent / "results" / "agents.json"
NUM_ROWS = 50  # of a learning curve
EPISODES = 100  # of the mean that must reach the goal


# What keeps a policy from saturating, one at a time. Where the policy itself does not explore, ε does.
BARE = {"target_entropy": 0.0, "epsilon": 0.05, "final_epsilon": 0.05}
REMEDIES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "bound-4": {"logit_bound": 4.0},
    "bound-2": {"logit_bound": 2.0},
    "penalty": {"logit_penalty": 0.01},
    "entropy": {"target_entropy": 0.15, "epsilon": 0.0, "final_epsilon": 0.0},
}
# Exploration by chance; returns of one step, which do not depend on who acted.
TABULAR = {
    "num_envs": 64,
    "return_steps": 1,
    "epsilon": 1.0,
    "final_epsilon": 0.05,
    "discount": 0.995,
    "replay_capacity": 100_000,
    "target_entropy": 0.05,
}
# Long rollouts and many small optimiser steps, chosen together; γ by itself: .99 and .999 learn to land less often.
LANDER = {
    "num_envs": 16,
    "rollout_steps": 512,
    "minibatches": 128,
    "discount": 0.995,
    "trace": 0.98,
    "anneal": True,
    "diagnostics_interval": 0,
}
# Chosen together on Breakout, seeds 100 and 101: with tanh, .0005 and longer rollouts it stays at 5.5.
BOARD = {
    "num_envs": 64,
    "rollout_steps": 32,
    "minibatches": 8,
    "epochs": 4,
    "learning_rate": 0.003,
    "entropy_coefficient": 0.01,
    "reward_scale": 1.0,
    "activation": "relu",
}
FACTORED_GOAL = 0.95 * 88.548  # the optimum
# What DQN and AC(.8) reach in training after 1,000,000 frames, the larger of the two, read off the learning curves of
# Young & Tian 2019, arXiv:1903.03176 (img/learning_curves.gif of github.com/kenjyoung/MinAtar, 30 seeds, six actions).
MINATAR = {"Breakout": 9.8, "Freeway": 48.0, "SpaceInvaders": 50.0, "Asterix": 8.0, "Seaquest": 1.0}

TASKS: dict[str, Task] = {
    **{f"cartpole/{agent}": Task("CartPole-v1", agent, 100_000, 475.0) for agent in ("ddpg", "td3", "sac")},
    **{
        f"saturation/{name}": Task("CartPole-v1", "ddpg", 30_000, 475.0, "greedy", settings={**BARE, **settings})
        for name, settings in REMEDIES.items()
    },
    "acrobot/actor-critic": Task(
        "Acrobot-v1",
        "actor-critic",
        200_000,
        -85.0,
        "greedy",
        settings={"num_envs": 32, "target_entropy": 0.07, "anneal": True, "diagnostics_interval": 0},
        episodes=1000,  # a return has a standard deviation of some 25
    ),
    "lunar-lander/actor-critic": Task("LunarLander-v3", "actor-critic", 400_000, 240.0, "greedy", settings=LANDER),
    "frozen-lake-8x8/ddpg": Task(
        "FrozenLake8x8-v1",
        "ddpg",
        600_000,
        0.98 * 0.8936,  # what the policy earns that is best by γ = .995; the optimum of .9132 counts steps
        "greedy",
        settings={**TABULAR, "polyak": 0.02, "batch_size": 256},
        episodes=2000,
    ),
    "taxi/ddpg": Task("Taxi-v4", "ddpg", 120_000, 0.98 * 7.93, "greedy", settings={**TABULAR, "reward_scale": 0.1}),
    "taxi-masked/actor-critic": Task(
        "Taxi-v4",
        "actor-critic",
        2_000_000,
        0.98 * 7.93,
        "greedy",
        settings={"target_entropy": 0.1, "anneal": True, "discount": 0.995, "trace": 0.9, "diagnostics_interval": 0},
        env_settings={"action_masks": True},
        episodes=2000,
    ),
    "cliff-walking/ddpg": Task(
        "CliffWalking-v1", "ddpg", 150_000, 1.02 * -13.0, "greedy", settings={**TABULAR, "reward_scale": 0.1}
    ),
    **{
        f"minatar/{game}": Task(
            f"MinAtar/{game}-v1",
            "ppo",
            1_000_000,
            goal,
            policy="none",
            settings=BOARD,
            env_settings={"minimal_actions": False},
            time_limit=0,
            num_seeds=3,
        )
        for game, goal in MINATAR.items()
    },
    **{
        f"corridor/{target}": Task(
            "gumbelrl/ShortCorridor-v0",
            "sac",
            8_192,
            1.05 * make("gumbelrl/ShortCorridor-v0", num_envs=1).optimal_return,
            settings={"target_entropy": target, "diagnostics_interval": 0},
            time_limit=0,
            episodes=2000,
        )
        for target in (0.15, 0.6, 0.95)
    },
    **{
        f"factored/{agent}-{policy}": Task(
            "gumbelrl/FactoredBandit-v0",
            agent,
            5_000,
            FACTORED_GOAL,
            "greedy",
            policy=policy,
            env_settings={"num_groups": 64},
        )
        for agent, policy in (
            ("sac", "gumbel"),
            ("sac", "straight-through"),
            ("sac", "reinforce"),
            ("reinforce", "none"),
            ("ppo", "none"),
        )
    },
}


def run(task: Task, seeds: tuple[int, ...], *, compiled: bool = False, watch: bool = False) -> dict[str, Any]:
    """Train all seeds of a task side by side, evaluate them, and return what the tables need."""
    trainer, make_env = build(task, seeds, compiled=compiled)
    start = time.perf_counter()
    steps, curve = [], []
    while not trainer.finished:
        trainer.iterate()
        if trainer.step >= task.total_steps * (len(steps) + 1) / NUM_ROWS or trainer.finished:
            returns, _ = trainer.statistics.means()
            steps.append(trainer.step)
            curve.append(torch.where(trainer.statistics.count >= EPISODES, returns, torch.nan).tolist())
            if watch:
                print(f"{trainer.step:>9,}", " ".join(f"{each:8.2f}" for each in curve[-1]), flush=True)
    seconds = time.perf_counter() - start
    returns_at_end = evaluate_both(trainer.agent, make_env, seeds=seeds, episodes=task.episodes)
    means = {kind: returns.mean(1).tolist() for kind, returns in returns_at_end.items()}
    rows = np.array(curve)
    reached = rows >= task.goal  # NaN, of too few episodes, has not
    return {
        **asdict(task),
        "seeds": list(seeds),
        "compiled": compiled,
        "steps": steps,
        "curve": [[None if np.isnan(x) else round(x, 4) for x in row] for row in rows.T.tolist()],
        "reached_at": [steps[int(column.argmax())] if column.any() else None for column in reached.T],
        "held_from": [_held_from(column, steps) for column in reached.T],
        "training_return": rows[-1].tolist(),
        "sampled_return": means["sampled"],
        "greedy_return": means["greedy"],
        "train_seconds": round(seconds, 1),
        **provenance(),
    }


def _held_from(reached: np.ndarray, steps: list[int]) -> int | None:
    """Return the step from which on the goal was kept to the end."""
    if not reached[-1]:
        return None
    missed = np.flatnonzero(~reached)
    return steps[int(missed[-1]) + 1 if len(missed) else 0]


def succeeded(entry: dict[str, Any]) -> list[bool]:
    """Return which seeds reached the goal: held to the end in training, or met by the final policy."""
    if entry["measure"] == "training":
        return [step is not None for step in entry["held_from"]]
    return [value >= entry["goal"] for value in entry[f"{entry['measure']}_return"]]


def summary(values: list[float]) -> str:
    """Return the interquartile mean and its interval."""
    array = np.array(values)
    size = float(np.abs(array).max())
    digits = 3 if size < 5 else 2 if size < 50 else 1 if size < 100 else 0
    middle = estimate([array])
    return f"{middle.value:.{digits}f} [{middle.low:.{digits}f}, {middle.high:.{digits}f}]"


def line(name: str, entry: dict[str, Any]) -> str:
    """Return a row of the table."""
    solved = succeeded(entry)
    steps = [step for step in entry["held_from"] if step and entry["measure"] == "training"]
    median = f"{np.median(steps) / 1000:.0f}k" if steps else "–"
    cells = [summary(entry[f"{kind}_return"]) for kind in ("training", "sampled", "greedy")]
    goal = f"{entry['goal']:g} ({entry['measure']})"
    count = f"{sum(solved)}/{len(solved)}"
    return f"| `{name}` | {goal} | {count} | {median} | {' | '.join(cells)} | {entry['train_seconds']:.0f} s |"


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    head = "| task | goal | seeds | kept from (median) | training | sampled | greedy | time |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *(line(*item) for item in results.items())])


def literal(word: str) -> tuple[str, Any]:
    """Return the setting and its value of `name=value`."""
    name, _, value = word.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def changed(task: Task, words: list[str]) -> Task:
    """Return the task with `name=value` settings: fields of the task first, of the agent otherwise."""
    values = dict(literal(word) for word in words)
    own = {name: value for name, value in values.items() if name in Task.__dataclass_fields__}
    rest = {name: value for name, value in values.items() if name not in own}
    return Task(**{**vars(task), **own, "settings": {**task.settings, **rest}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="names or patterns, such as 'cartpole/*'; all by default")
    parser.add_argument("--seeds", help="FIRST..LAST, to try; nothing is written")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="try settings; nothing is written")
    parser.add_argument("--again", action="store_true", help="run tasks that have a result too")
    parser.add_argument("--compile", action="store_true", help="compile the steps: equal to rounding, sooner done")
    parser.add_argument("--list", action="store_true", help="print the tasks")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables")
    options = parser.parse_args()

    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    patterns = options.tasks or ["*"]
    chosen = {name: task for name, task in TASKS.items() if any(fnmatch(name, pattern) for pattern in patterns)}
    if options.list:
        print("\n".join(f"{name}: {task}" for name, task in chosen.items()))
        return
    if options.table:
        print(table({name: results[name] for name in chosen if name in results}))
        return
    first, _, last = (options.seeds or "").partition("..")
    trying = bool(options.set or options.seeds)
    for name, task in chosen.items():
        if name in results and not options.again and not trying:
            continue
        seeds = range(int(first), int(last or first) + 1) if first else range(task.num_seeds)
        entry = run(changed(task, options.set), tuple(seeds), compiled=options.compile, watch=trying)
        print(line(name, entry), flush=True)
        if not trying:
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            results[name] = entry
            ordered = {each: results[each] for each in TASKS if each in results}
            RESULTS.write_text(json.dumps(ordered) + "\n")


if __name__ == "__main__":
    main()
