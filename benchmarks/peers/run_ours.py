"""Ours, by the words of train.py, from the same clock as the peers: `python run_ours.py WORDS…`."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from record import Recorder

LOOK = 0.02  # seconds between two looks at the returns; the JAX peer's are looked at by chunks of iterations


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=15.0)
    parser.add_argument("--warm-up", type=int, default=2000)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--words", default="[]", help="of train.py, as JSON")
    options = parser.parse_args()
    recorder = Recorder(limit=options.limit, warm_up=options.warm_up)

    from gumbelrl.agents.command_line import requested_runs
    from gumbelrl.agents.experiment import Experiment
    from gumbelrl.agents.presets import with_preset

    last = options.seed + options.members - 1
    words = ["--seeds", f"{options.seed}..{last}", *json.loads(options.words)]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--output", str(Path(folder) / "run")]
        trainer = Experiment(requested_runs(with_preset(words))[0]).trainer
        config = trainer.agent.config
        each = getattr(config, "updates_per_iteration", 0) or (
            getattr(config, "epochs", 1) * getattr(config, "minibatches", 1)
        )
        starts = getattr(config, "learning_starts", 0)
        updates, looked_at = 0, 0.0
        while not trainer.finished:
            trainer.iterate()
            updates += each if trainer.step >= starts else 0
            if time.perf_counter() < looked_at + LOOK and not trainer.finished:
                continue
            looked_at = time.perf_counter()
            counted = bool(trainer.statistics.count.min() >= 100)
            mean = float(trainer.statistics.means()[0].min()) if counted else None
            if not recorder.mark(trainer.step, updates, mean):
                break
    recorder.finish(["gumbelrl", "torch"], members=options.members)


if __name__ == "__main__":
    main()
