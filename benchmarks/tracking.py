"""What W&B costs, as a share of training time, at the default intervals: `--track off` against `--track offline`.

    python benchmarks/tracking.py                    # about three minutes; writes benchmarks/results/tracking.json

Whole runs in one process, in turn, of which only the training is counted (`train_seconds` of their results); the first
pair warms up and is left out. TensorBoard is measured beside them. With one core everything that wandb's own process
does counts too; with two it runs beside the training.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
from pathlib import Path

import torch
from provenance import provenance

from gumbelrl.agents.experiment import Experiment, RunConfig

RESULTS = Path(__file__).parent / "results"
MODES = ("off", "offline", "tensorboard")
TARGET = 0.03


def train_seconds(mode: str, *, seeds: tuple[int, ...], total_steps: int) -> float:
    """Return the seconds that the training of one default run on CartPole-v1 takes."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = RunConfig(
            seeds=seeds,
            total_steps=total_steps,
            track="off" if mode == "tensorboard" else mode,
            tensorboard=mode == "tensorboard",
            output=Path(folder) / "run",
            evaluation_episodes=1,
        )
        return float(Experiment(config).run()["train_seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--total-steps", type=int, default=131_072)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    torch.set_num_threads(1)
    found = {}
    for members in options.members:
        seeds, seconds = tuple(range(members)), {mode: [] for mode in MODES}
        for repeat in range(options.repeats + 1):
            # In turn, and from another one each time: what drifts must not look like a difference.
            for mode in MODES[repeat % len(MODES) :] + MODES[: repeat % len(MODES)]:
                taken = train_seconds(mode, seeds=seeds, total_steps=options.total_steps)
                if repeat:
                    seconds[mode].append(taken)
            print(f"{members} members, {repeat}/{options.repeats}", flush=True)
        # Each repeat's own ratio, since a machine's speed drifts from repeat to repeat.
        shares = {
            mode: [tracked / alone - 1 for tracked, alone in zip(seconds[mode], seconds["off"], strict=True)]
            for mode in MODES[1:]
        }
        found[members] = {"seconds": seconds, "share": {mode: statistics.median(s) for mode, s in shares.items()}}
    print(f"\n{'members':>8} {'off':>10} {'W&B':>8} {'TensorBoard':>12}     share of training time, median")
    for members, each in found.items():
        shares = each["share"]
        alone = statistics.median(each["seconds"]["off"])
        print(f"{members:>8} {alone:>8.2f} s {shares['offline']:>+8.1%} {shares['tensorboard']:>+12.1%}")
    print(f"target for W&B: below {TARGET:.0%}")
    result = {**provenance(), **vars(options), "target": TARGET, "found": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tracking.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
