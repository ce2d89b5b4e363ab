"""What every script of a peer says while it trains: when it had taken how many steps and updates, and when it solved.

Plain Python, since it runs in every peer's environment.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

SOLVED, WINDOW = 475.0, 100  # gymnasium's threshold for CartPole-v1: the mean return of the last 100 episodes
MEASURED = 3.0  # seconds that are measured at least, though the task be solved earlier


class Recorder:
    """Times of a run, printed as one line of JSON at its end.

    Args:
        limit: seconds after the warm-up at which the run has been measured for long enough.
        warm_up: steps that come before throughput is measured: compilation, filling the replay.
    """

    def __init__(self, *, limit: float, warm_up: int) -> None:
        self.limit, self.warm_up = limit, warm_up
        self.warm: list[float] | None = None
        self.last: list[float] = [time.time(), 0, 0]
        self.solved: list[float] | None = None
        self.returns: deque[float] = deque(maxlen=WINDOW)

    def episodes(self, returns: Sequence[float]) -> None:
        """Add the returns of finished episodes."""
        self.returns.extend(returns)

    def mark(self, steps: int, updates: int, mean_return: float | None = None) -> bool:
        """Note what has been done so far; return whether to go on.

        Args:
            steps: environment steps so far, of one seed.
            updates: optimiser steps so far, of one seed.
            mean_return: of the last 100 episodes, where the peer counts it itself.
        """
        now = time.time()
        self.last = [now, steps, updates]
        if self.warm is None and steps >= self.warm_up:
            self.warm = self.last
        if mean_return is None and len(self.returns) == WINDOW:
            mean_return = sum(self.returns) / WINDOW
        if self.solved is None and mean_return is not None and mean_return >= SOLVED:
            self.solved = self.last
        measured = now - self.warm[0] if self.warm else 0.0
        return measured < (MEASURED if self.solved else self.limit)

    def finish(self, packages: Sequence[str], **more: Any) -> None:
        """Print what was noted; times are those of the system's clock."""
        versions = {name: importlib.metadata.version(name) for name in packages}
        line = {"warm": self.warm, "last": self.last, "solved": self.solved, "versions": versions, **more}
        print(json.dumps(line), flush=True)


def options(cases: Sequence[str]) -> tuple[argparse.Namespace, Recorder]:
    """Return the words of the command line that all scripts have."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=list(cases))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=15.0)
    parser.add_argument("--warm-up", type=int, default=2000)
    parser.add_argument("--members", type=int, default=1, help="seeds side by side, where the peer can")
    parsed = parser.parse_args()
    return parsed, Recorder(limit=parsed.limit, warm_up=parsed.warm_up)
