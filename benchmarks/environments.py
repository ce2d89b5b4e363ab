"""Environment steps against gymnasium's, with random actions, on one CPU thread.

    python benchmarks/environments.py     # minutes, on a quiet machine; writes benchmarks/results/environments.json

CartPole is measured against gymnasium's own vectorised one (`vector_entry_point`), at each of `--sizes`. The others
have none there: they are measured against a `SyncVectorEnv` of as many single environments (MinAtar's are those of the
package `minatar`). Both sides reset what has ended; ours returns the last observation of an episode as well, always.

Rounds of ours and of theirs alternate, each with actions drawn before; a ratio is that of the median times of an
environment step. Compiling, and the steps before (what an episode begins with is not typical), are left out on both
sides; `compile_s` says what compiling took. `--eager` measures eager steps too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import minatar.gym
import numpy as np
import torch
from provenance import provenance

from gumbelrl.envs import make

from generated import write_parts

RESULTS = Path(__file__).parent / "results"
CARTPOLE = "CartPole-v1"
GAMES = ("Breakout", "Freeway", "Asterix", "SpaceInvaders", "Seaquest")
OTHERS = ("Acrobot-v1", "FrozenLake-v1", "Taxi-v4", *(f"MinAtar/{game}-v1" for game in GAMES))
NEEDED = {CARTPOLE: 2.0} | dict.fromkeys(OTHERS, 50.0)

Steps = Callable[[int], float]
"""Number of steps -> seconds that they take."""


def ours(env_id: str, num_envs: int, *, compiled: bool, warm_up: int) -> tuple[Steps, float]:
    """Return our side, and the seconds that the first step took, which compiles."""
    env = make(env_id, num_envs=num_envs, compile=compiled)
    choices, generator = int(env.single_action_space.n), torch.Generator().manual_seed(0)

    def steps(count: int) -> float:
        actions = torch.randint(choices, (count, num_envs), generator=generator).unbind(0)
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        return time.perf_counter() - start

    env.reset(0)
    first = steps(1)
    if compiled and env.compile is False:
        raise SystemExit(f"{env_id} was not compiled: this benchmark needs a C++ compiler")
    steps(warm_up)
    return steps, first


def theirs(env_id: str, num_envs: int, *, warm_up: int) -> Steps:
    """Return gymnasium's side."""
    mode = "vector_entry_point" if env_id == CARTPOLE else "sync"
    env = gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode=mode)
    choices, generator = int(env.single_action_space.n), np.random.default_rng(0)

    def steps(count: int) -> float:
        actions = generator.integers(choices, size=(count, num_envs))
        start = time.perf_counter()
        for action in actions:
            env.step(action)
        return time.perf_counter() - start

    env.reset(seed=0)
    steps(warm_up)
    return steps


def compare(env_id: str, num_envs: int, *, compiled: bool, rounds: int, seconds: float, warm_up: int) -> dict[str, Any]:
    """Return the medians of alternating rounds, each of about `seconds`, and their ratio."""
    own, first = ours(env_id, num_envs, compiled=compiled, warm_up=warm_up)
    other = theirs(env_id, num_envs, warm_up=warm_up)
    counts = [max(1, round(seconds / (side(4) / 4))) for side in (own, other)]
    own_us, other_us = [], []
    for _ in range(rounds):
        for side, count, times in ((own, counts[0], own_us), (other, counts[1], other_us)):
            times.append(side(count) / count / num_envs * 1e6)
    ratio = statistics.median(other_us) / statistics.median(own_us)
    return {
        "env": env_id,
        "num_envs": num_envs,
        "compiled": compiled,
        "compile_s": round(first, 2) if compiled else None,
        "ours_us": round(statistics.median(own_us), 4),
        "theirs_us": round(statistics.median(other_us), 4),
        "ratio": round(ratio, 2),
        "rounds": {"ours_us": own_us, "theirs_us": other_us},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the Markdown table of docs/environments.md."""
    lines = [
        "| environment | envs | steps | ours, million steps/s | gymnasium, million steps/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        how = "compiled" if row["compiled"] else "eager"
        rates = f"{1 / row['ours_us']:.2f} | {1 / row['theirs_us']:.3f}"
        lines.append(f"| `{row['env']}` | {row['num_envs']:,} | {how} | {rates} | {row['ratio']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(NEEDED), choices=list(NEEDED), metavar="ID")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 16384], help="of CartPole")
    parser.add_argument("--num-envs", type=int, default=1024, help="of the others")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a round, about")
    parser.add_argument("--warm-up", type=int, default=100, help="steps before the first round")
    parser.add_argument("--eager", action="store_true", help="measure eager steps too")
    parser.add_argument("--write", action="store_true", help="write the table into docs/environments.md")
    options = parser.parse_args()

    torch.set_num_threads(1)
    minatar.gym.register_envs()
    rows: list[dict[str, Any]] = []
    for env_id in options.envs:
        for num_envs in options.sizes if env_id == CARTPOLE else [options.num_envs]:
            for compiled in (True, False) if options.eager else (True,):
                how = {"rounds": options.rounds, "seconds": options.seconds, "warm_up": options.warm_up}
                row = compare(env_id, num_envs, compiled=compiled, **how)
                rows.append(row)
                verdict = "" if row["ratio"] >= NEEDED[env_id] else f"   below {NEEDED[env_id]:g}"
                print(
                    f"{env_id:26} {num_envs:6,} envs  {'compiled' if compiled else 'eager':8}"
                    f" {row['ours_us']:8.4f} µs a step, gymnasium {row['theirs_us']:8.4f}:"
                    f" {row['ratio']:7.1f}×{verdict}",
                    flush=True,
                )
    RESULTS.mkdir(exist_ok=True)
    result = {**provenance(), **vars(options), "gymnasium": gymnasium.__version__, "rows": rows}
    (RESULTS / "environments.json").write_text(json.dumps(result, indent=1) + "\n")
    if options.write:
        write_parts("environments.md", {"speed": table(rows)})


if __name__ == "__main__":
    main()
