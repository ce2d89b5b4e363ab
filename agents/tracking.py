"""Where metrics go: JSON lines always, Weights & Biases beside them when asked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Sink(Protocol):
    """Somewhere metrics are written; a row is one member at one step."""

    def log(self, member: int, row: Mapping[str, float], histograms: Mapping[str, np.ndarray]) -> None: ...

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None: ...

    def image(self, name: str, path: Path) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class JsonLines:
    """`metrics.jsonl`: one object a line, read by `pandas.read_json(path, lines=True)`; NaN is written as null."""

    def __init__(self, path: Path, seeds: Sequence[int], *, resume_step: int | None = None) -> None:
        self.path, self.seeds = path, seeds
        if resume_step is not None and path.exists():
            self._drop_after(resume_step)
        self.file = path.open("a", encoding="utf-8")

    def _drop_after(self, step: int) -> None:
        """Forget what a killed run wrote after its last checkpoint, and a line cut short; whole or not at all."""
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["step"] <= step:
                kept.append(line + "\n")
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(kept), encoding="utf-8")
        os.replace(temporary, self.path)

    def log(self, member: int, row: Mapping[str, float], histograms: Mapping[str, np.ndarray]) -> None:
        finite = {
            name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in row.items()
        }
        self.file.write(json.dumps({"seed": self.seeds[member], **finite}) + "\n")

    def flush(self) -> None:
        self.file.flush()

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        """The summary has a file of its own, `results.json`."""

    def image(self, name: str, path: Path) -> None:
        """The picture lies in the folder already."""

    def close(self, *, failed: bool) -> None:
        self.file.close()


def read_metrics(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """Return seed -> column -> values in the order written, NaN where a value was missing."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = sorted({name for row in rows for name in row} - {"seed"})
    return {
        seed: {
            name: np.array([_number(row.get(name)) for row in rows if row["seed"] == seed], dtype=np.float64)
            for name in names
        }
        for seed in dict.fromkeys(row["seed"] for row in rows)
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value
