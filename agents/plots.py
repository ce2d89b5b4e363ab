"""Pictures of a run. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def plot_learning_curve(
    path: Path, metrics: Mapping[int, Mapping[str, np.ndarray]], *, title: str, threshold: float | None = None
) -> None:
    """Draw the training return of each seed, and their interquartile mean where there are four or more."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    many = len(metrics) >= 4
    for index, (seed, columns) in enumerate(metrics.items()):
        axes.plot(
            columns["step"],
            columns["train/return"],
            color="#94a3b8" if many else f"C{index}",
            linewidth=1.0 if many else 1.8,
            alpha=0.7 if many else 1.0,
            label="one seed" if many and index == 0 else None if many else f"seed {seed}",
        )
    if many:
        step, middle = interquartile_curve(metrics)
        axes.plot(step, middle, color="#1d4ed8", linewidth=2.2, label=f"interquartile mean of {len(metrics)} seeds")
    if threshold is not None:
        axes.axhline(threshold, color="#64748b", linestyle=":", linewidth=1.2, label=f"solved ({threshold:g})")
    axes.set(title=title, xlabel="environment steps", ylabel="return, mean of the last 100 episodes")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x < 1e6 else f"{x / 1e6:g}M")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path)


def interquartile_curve(metrics: Mapping[int, Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and, at each, the mean of the middle half of the seeds."""
    length = min(len(columns["step"]) for columns in metrics.values())
    returns = np.sort(np.stack([columns["train/return"][:length] for columns in metrics.values()]), axis=0)
    cut = len(metrics) // 4
    return next(iter(metrics.values()))["step"][:length], returns[cut : len(metrics) - cut].mean(0)
