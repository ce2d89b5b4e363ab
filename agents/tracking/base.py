"""What a sink of metrics is, and the JSON lines that every run writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

NUM_BINS = 32
MOST_HISTOGRAMS = 32
MEDIA = (".gif", ".mp4", ".png")

Row = Mapping[str, Any]
"""One member at one `step`: numbers, and names of pictures and videos relative to the run's folder."""
Counts = Mapping[str, Sequence[int]]
"""Histograms over [0, 1]: name -> how many values lie in each of `NUM_BINS` bins of equal width."""


class Sink(Protocol):
    """Somewhere metrics are written."""

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        """Take a row of training."""

    def log_evaluation(self, member: int, row: Row) -> None:
        """Take a row of evaluation: at the `step` of a row of training, or at one of its own."""

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        """Take what is to be said of the member at the end."""

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Take files that belong together, as a version of the run's `config`, `model` or `report`."""

    def flush(self) -> None:
        """Bring what was taken to where a killed process does not lose it."""

    def close(self, *, failed: bool) -> None:
        """Finish; nothing is taken afterwards."""


class JsonLines:
    """Three files, one object a line: `pandas.read_json(path, lines=True)` reads each; NaN is written as null.

    `metrics.jsonl` holds the rows of training, `histograms.jsonl` their histograms, and `evaluations.jsonl` the rows of
    evaluation. Whatever another sink is to hold can be made from them again.

    Args:
        seeds: one a member; `variations`: what each member's variation is called, if members differ in settings.
        resume_step: the step of the checkpoint that a resumed run starts from: what a killed run wrote after it is
            forgotten.
        finished: the checkpoint is that of the end, so that the last evaluation will be written again.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        *,
        variations: Sequence[str] = (),
        resume_step: int | None = None,
        finished: bool = False,
    ) -> None:
        self.members = [member_entry(*member) for member in name_members(seeds, variations)]
        self.paths = {name: folder / f"{name}.jsonl" for name in ("metrics", "histograms", "evaluations")}
        if resume_step is not None:
            for name, path in self.paths.items():
                if path.exists():
                    drop_rows_after(path, resume_step - (finished and name == "evaluations"))
        self.opened = {name: path.open("a", encoding="utf-8") for name, path in self.paths.items()}

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        self._write("metrics", member, row)
        if histograms:
            self._write("histograms", member, {"step": row["step"], **histograms})

    def log_evaluation(self, member: int, row: Row) -> None:
        self._write("evaluations", member, row)

    def _write(self, name: str, member: int, row: Mapping[str, Any]) -> None:
        finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
        self.opened[name].write(json.dumps({**self.members[member], **finite}) + "\n")

    def flush(self) -> None:
        for file in self.opened.values():
            file.flush()

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        """The summary has a file of its own, `results.json`."""

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """They lie in the folder already."""

    def close(self, *, failed: bool) -> None:
        for file in self.opened.values():
            file.close()


class Sinks:
    """Several sinks as one, or none."""

    def __init__(self, *sinks: Sink) -> None:
        self.all = sinks

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        for sink in self.all:
            sink.log(member, row, histograms)

    def log_evaluation(self, member: int, row: Row) -> None:
        for sink in self.all:
            sink.log_evaluation(member, row)

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        for sink in self.all:
            sink.summarise(member, summary)

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        for sink in self.all:
            sink.files(kind, paths, metadata)

    def flush(self) -> None:
        for sink in self.all:
            sink.flush()

    def close(self, *, failed: bool) -> None:
        for sink in self.all:
            sink.close(failed=failed)


def drop_rows_after(path: Path, step: int) -> None:
    """Forget the rows of later steps, and a line cut short; whole or not at all."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; none where there is no such file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


Member = tuple[int, str]
"""A member's seed and what its variation is called, empty where members differ in nothing but their seeds."""


def name_members(seeds: Sequence[int], variations: Sequence[str] = ()) -> list[Member]:
    return list(zip(seeds, variations or [""] * len(seeds), strict=True))


def member_entry(seed: int, variation: str) -> dict[str, Any]:
    """Return what a row says of whose it is."""
    return {"seed": seed, "variation": variation} if variation else {"seed": seed}


def _take_member(row: dict[str, Any]) -> Member:
    return row.pop("seed"), row.pop("variation", "")


def read_history(
    folder: Path, seeds: Sequence[int], variations: Sequence[str] = ()
) -> list[tuple[int, dict[str, Any], dict[str, list[int]]]]:
    """Return what the JSON lines of a run hold as (member, row, histograms), in the order of steps."""
    members = {member: index for index, member in enumerate(name_members(seeds, variations))}
    rows = [(members[_take_member(row)], row) for row in read_rows(folder / "metrics.jsonl")]
    lines = read_rows(folder / "histograms.jsonl")
    counted = {(members[_take_member(line)], line.pop("step")): line for line in lines}
    history = [(member, row, counted.get((member, row["step"]), {})) for member, row in rows]
    history += [(members[_take_member(row)], row, {}) for row in read_rows(folder / "evaluations.jsonl")]
    history.sort(key=lambda entry: entry[1]["step"])
    return history


def read_metrics(path: Path) -> dict[int, dict[str, np.ndarray]]:
    """Return seed -> column -> values in the order written, NaN where a value was missing.

    Of a run whose members differ in settings `read_variations` tells them apart.
    """
    return {seed: columns for each in read_variations(path).values() for seed, columns in each.items()}


def read_variations(path: Path) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Return variation -> seed -> column -> values, as `read_metrics` does; the variation "" where there is none."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    names = sorted({name for row in rows for name in row} - {"seed", "variation"})
    members: dict[Member, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(_take_member(row), []).append(row)
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for (seed, variation), own in members.items():
        columns = {name: np.array([_number(row.get(name)) for row in own], dtype=np.float64) for name in names}
        found.setdefault(variation, {})[seed] = columns
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def action_histograms(probs: Float[np.ndarray, "member batch group choice"]) -> list[dict[str, list[int]]]:
    """Return, for each member, how probable each choice was over a minibatch: `MOST_HISTOGRAMS` choices at the most."""
    members, batch, groups, choices = probs.shape
    flat = probs.reshape(members, batch, groups * choices)[..., :MOST_HISTOGRAMS]
    names = [f"{index}" if groups == 1 else f"{index // choices}.{index % choices}" for index in range(flat.shape[2])]
    counts = count_bins(flat)
    return [
        {f"policy/probs/{name}": row.tolist() for name, row in zip(names, counts[member], strict=True) if row.any()}
        for member in range(members)
    ]


def count_bins(values: Float[np.ndarray, "member batch column"]) -> Int[np.ndarray, "member column bin"]:
    """Return how many of the values in [0, 1] lie in each of `NUM_BINS` bins, all in one pass; NaN lies in none."""
    members, _, columns = values.shape
    known = ~np.isnan(values)
    bins = np.clip(np.where(known, values * NUM_BINS, 0).astype(np.int64), 0, NUM_BINS - 1)
    which = np.arange(members)[:, None, None] * columns + np.arange(columns)
    counts = np.bincount((which * NUM_BINS + bins)[known], minlength=members * columns * NUM_BINS)
    return counts.reshape(members, columns, NUM_BINS)


def is_media(value: Any) -> bool:
    """True of the name of a picture or video."""
    return isinstance(value, str) and value.endswith(MEDIA)
