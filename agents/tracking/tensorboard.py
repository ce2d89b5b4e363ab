"""TensorBoard: a log a member, `tensorboard/seed0` or `tensorboard/VARIATION/seed0`: `tensorboard --logdir FOLDER`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.tracking.base import NUM_BINS, Counts, Row, is_media, name_members


class TensorBoardSink:
    """Curves and histograms; pictures and videos stay in the folder.

    Args:
        folder: the run's folder.
        seeds: one a member; `variations`: what each member's variation is called, if members differ in settings.
        resume_step: the step of the checkpoint that a resumed run starts from: TensorBoard forgets later ones.
    """

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        *,
        variations: Sequence[str] = (),
        resume_step: int | None = None,
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            from torch.utils.tensorboard import SummaryWriter
        purge = None if resume_step is None else resume_step + 1
        logs = [
            folder / "tensorboard" / variation.replace(":", "-") / f"seed{seed}"
            for seed, variation in name_members(seeds, variations)
        ]
        self.writers = [SummaryWriter(str(log), purge_step=purge) for log in logs]

    def log(self, member: int, row: Row, histograms: Counts) -> None:
        writer, step = self.writers[member], row["step"]
        self._scalars(member, row)
        edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        for name, counts in histograms.items():
            held = np.asarray(counts)
            writer.add_histogram_raw(
                name,
                min=0.0,
                max=1.0,
                num=int(held.sum()),
                sum=float(held @ middles),
                sum_squares=float(held @ middles**2),
                bucket_limits=edges[1:].tolist(),
                bucket_counts=held.tolist(),
                global_step=step,
            )

    def log_evaluation(self, member: int, row: Row) -> None:
        self._scalars(member, row)

    def _scalars(self, member: int, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and not is_media(value):
                self.writers[member].add_scalar(name, value, row["step"])

    def summarise(self, member: int, summary: Mapping[str, Any]) -> None:
        """It has none beside the curves."""

    def files(self, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """It keeps no files."""

    def flush(self) -> None:
        for writer in self.writers:
            writer.flush()

    def close(self, *, failed: bool) -> None:
        for writer in self.writers:
            writer.close()
