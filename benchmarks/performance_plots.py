"""Plots of docs/performance.md, from the benchmarks' JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peer_cases import CASES

from generated import DOCS

FOLDER = DOCS / "figures"
# Names inside a plot would differ by run: with these the same numbers give the same file.
METADATA = {"Date": None, "Creator": "benchmarks/performance_page.py"}
OURS, LIGHT, DARK, GREY = "#1b6ca8", "#8fc1e3", "#0b2f4a", "#999999"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "gumbelrl"
    return pyplot


def _save(figure: Any, name: str) -> Path:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / name, metadata=METADATA)
    _pyplot().close(figure)
    return FOLDER / name


def peers_plot(results: dict[str, Any]) -> Path:
    """Draw the ratios of ours to each peer as bars: eager, from process start and, where measured, compiled."""
    pyplot = _pyplot()
    summary = results["summary"]
    names = [name for name in CASES if "ratio" in summary.get(name, {})][::-1]
    kinds = [
        ("ratio", "steps_per_second", "eager", OURS),
        ("ratio", "steps_per_second_with_compilation", "eager, from process start", LIGHT),
        ("ratio_compiled", "steps_per_second", "compiled", DARK),
    ]
    kinds = [kind for kind in kinds if any(kind[0] in summary[name] for name in names)]
    height = 0.84 / len(kinds)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.28 * len(kinds) * len(names)), layout="constrained")
    values: list[float] = [1.0]
    for index, (ratio, key, label, colour) in enumerate(kinds):
        rows = [(place, summary[name][ratio][key]) for place, name in enumerate(names) if ratio in summary[name]]
        places = [place + ((len(kinds) - 1) / 2 - index) * height for place, _ in rows]
        found = [value for _, value in rows]
        values += found
        axes.barh(places, [value - 1 for value in found], left=1, height=0.9 * height, color=colour, label=label)
        for place, value in zip(places, found, strict=True):
            right = value >= 1
            axes.annotate(
                f"{value:.2f}×" if value < 10 else f"{value:.0f}×",
                (value, place),
                xytext=(3 if right else -3, 0),
                textcoords="offset points",
                va="center",
                ha="left" if right else "right",
                fontsize=9,
            )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 1.8, max(values) * 1.8)
    ticks = [
        tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100) if axes.get_xlim()[0] < tick < axes.get_xlim()[1]
    ]
    axes.set_xticks(ticks, [f"{tick:g}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), [CASES[name].title for name in names])
    axes.set_xlabel("training steps/s of ours over the peer's; right of 1×, ours is faster")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.4, 1.0 + 0.5 / len(names)), ncols=3)
    return _save(figure, "peers.svg")


def scaling_plot(results: dict[str, Any], labels: dict[str, tuple[str, str]]) -> Path:
    """Draw the cost along each axis, with the middle half of the measurements as a band."""
    pyplot = _pyplot()
    found = results["axes"]
    figure, grid = pyplot.subplots(2, 3, figsize=(9, 5), layout="constrained")
    cells = list(grid.ravel())
    for axis, axes in zip(found, cells, strict=False):
        rows, (along, unit) = found[axis], labels[axis]
        axes.fill_between(rows["point"], rows["low"], rows["high"], color=LIGHT, alpha=0.5, linewidth=0)
        axes.plot(rows["point"], rows["median"], "o-", color=OURS, markersize=4)
        axes.set_xscale("log")
        axes.set_xlabel(along)
        axes.set_title(unit, fontsize=10, loc="left")
        if axis == "environments":
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.15 * max(rows["high"]))
        axes.set_xticks(rows["point"], [_short(int(point)) for point in rows["point"]])
        axes.minorticks_off()
    for axes in cells[len(found) :]:
        axes.set_axis_off()
    return _save(figure, "scaling.svg")


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size and count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def roofline_plot(results: dict[str, Any]) -> Path:
    """Draw what an update takes beside its floor, its products and its calls."""
    pyplot = _pyplot()
    updates = results["updates"][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.5 * len(updates)), layout="constrained")
    for place, each in enumerate(updates):
        axes.barh(place, 1e6 * each["seconds"], height=0.6, color=LIGHT, label="eager" if not place else None)
        marks = (
            ("floor_seconds", "|", "black", "floor"),
            ("compiled_seconds", "s", DARK, "compiled"),
            ("products_seconds", "D", OURS, "its products at their sizes"),
            ("calls_seconds", "o", GREY, "calls of its operators alone"),
        )
        for key, marker, colour, label in marks:
            axes.plot(
                1e6 * each[key],
                place,
                marker,
                color=colour,
                markersize=14 if marker == "|" else 6,
                markeredgewidth=2,
                linestyle="none",
                label=label if not place else None,
            )
    axes.set_yticks(range(len(updates)), [each["name"] for each in updates])
    axes.set_xscale("log")
    axes.set_xlim(0.5e6 * min(each["floor_seconds"] for each in updates), None)
    axes.set_xlabel("µs an update, one thread")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.4, 1.0 + 1.3 / len(updates)), fontsize=9)
    return _save(figure, "roofline.svg")
