"""Pictures of a run. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gumbelrl.agents.tracking.base import read_variations

if TYPE_CHECKING:
    from gumbelrl.agents.run_config import RunConfig

MOST_NAMED = 8  # variations that have a colour and a name; more cannot be told apart

Metrics = Mapping[int, Mapping[str, np.ndarray]]
"""seed -> column -> values over time"""


def plot_run(folder: Path, config: RunConfig, *, threshold: float | None) -> None:
    """Draw `learning_curve.png` of a run from its `metrics.jsonl`.

    Args:
        threshold: the return at which the environment counts as solved, if there is one.
    """
    title = f"{config.env} · {config.agent} · {config.policy} ({config.critic} critic)"
    metrics, path = read_variations(folder / "metrics.jsonl"), folder / "learning_curve.png"
    if config.variations:
        plot_variations(path, metrics, title=title, threshold=threshold)
    else:
        plot_learning_curve(path, metrics[""], title=title, threshold=threshold)


def plot_learning_curve(path: Path, metrics: Metrics, *, title: str, threshold: float | None = None) -> None:
    """Draw the training return of each seed, and their interquartile mean where there are four or more."""
    _save(path, lambda axes: _draw_seeds(axes, metrics), title=title, threshold=threshold)


def plot_variations(path: Path, metrics: Mapping[str, Metrics], *, title: str, threshold: float | None = None) -> None:
    """Draw the interquartile mean over seeds of each variation; of many, only the highest at the end have names."""
    _save(path, lambda axes: _draw_variations(axes, metrics), title=title, threshold=threshold)


def _draw_variations(axes: Any, metrics: Mapping[str, Metrics]) -> list[str]:
    curves = {name: interquartile_curve(own) for name, own in metrics.items()}
    ordered = sorted(curves, key=lambda name: -np.nan_to_num(curves[name][1][-1], nan=-np.inf))
    named = ordered if len(ordered) <= MOST_NAMED else ordered[: MOST_NAMED - 1]
    for name in reversed(ordered):  # the best on top
        shown = name in named
        colour = f"C{named.index(name)}" if shown else "#94a3b8"
        axes.plot(*curves[name], color=colour, linewidth=1.8 if shown else 1.0, label=name if shown else None)
    if len(named) < len(ordered):
        axes.plot([], [], color="#94a3b8", linewidth=1.0, label=f"{len(ordered) - len(named)} others, lower at the end")
    return named


def _draw_seeds(axes: Any, metrics: Metrics) -> list[str]:
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
    return []


def _save(path: Path, draw: Callable[[Any], list[str]], *, title: str, threshold: float | None) -> None:
    """Save a picture; `draw` returns what its legend begins with."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    first = draw(axes)
    if threshold is not None:
        axes.axhline(threshold, color="#64748b", linestyle=":", linewidth=1.2, label=f"solved ({threshold:g})")
    axes.set(title=title, xlabel="environment steps", ylabel="return, mean of the last 100 episodes")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x < 1e6 else f"{x / 1e6:g}M")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: first.index(labels[at]) if labels[at] in first else len(first))
    small = {"fontsize": 8} if first else {}
    axes.legend([handles[at] for at in order], [labels[at] for at in order], frameon=False, **small)
    figure.savefig(path)


def interquartile_curve(metrics: Mapping[int, Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and, at each, the mean of the middle half of the seeds."""
    length = min(len(columns["step"]) for columns in metrics.values())
    returns = np.sort(np.stack([columns["train/return"][:length] for columns in metrics.values()]), axis=0)
    cut = len(metrics) // 4
    return next(iter(metrics.values()))["step"][:length], returns[cut : len(metrics) - cut].mean(0)
