"""The pictures of a comparison, as SVG for the page and as SVG and PNG files."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.compare.comparison import (
    DIAGNOSTICS,
    LEARNING_CURVE,
    AcrossComparison,
    Comparison,
    EnvironmentComparison,
    Pair,
)
from gumbelrl.agents.compare.conclusions import decide
from gumbelrl.agents.compare.formatting import decimals, show
from gumbelrl.agents.compare.palette import DASHES, MARKERS, light, series_colour, series_pattern
from gumbelrl.agents.compare.statistics import Band, Estimate
from gumbelrl.agents.compare.svg_markup import adapt, standalone

WIDE, NARROW = (10.6, 4.0), (4.5, 3.1)  # inches
ROW_HEIGHT, ROWS_MARGIN = 0.56, 0.7
LINE_HEIGHT = 0.2  # inches, of a second line of a row's words, and of a line of the legend
ROOM = 55  # letters of a line in a narrow picture; longer names are written smaller, so that numbers have room
MOST_PAIRS = 15
MOST_NAMED = 24  # lines that a legend names
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": light("muted"),
    "axes.labelcolor": light("muted"),
    "axes.titlecolor": light("ink"),
    "text.color": light("ink"),
    "xtick.color": light("muted"),
    "ytick.color": light("muted"),
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": light("rule"),
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": light("ink"),
    "lines.solid_capstyle": "round",
    "lines.scale_dashes": True,
}


@dataclass(frozen=True)
class Plot:
    """A picture.

    Attributes:
        name: of its files; letters, digits and hyphens.
        description: what it shows, for who does not see it.
        draw: draws it on matplotlib axes.
        size: inches.
        series: variants that its colours stand for; a legend outside says which.
    """

    name: str
    title: str
    description: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = NARROW
    series: Mapping[str, int] | None = None


def svg(plot: Plot, *, name: str | None = None, size: tuple[float, float] | None = None) -> str:
    """Return a picture as an `<svg>` element for a page, without title and legend, which the page gives."""
    text = _render(plot, "svg", bare=True, size=size or plot.size).decode()
    return adapt(text, name=name or plot.name, title=plot.title, description=plot.description)


def save_plots(comparison: Comparison, folder: Path) -> None:
    """Write every picture as SVG and as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in all_plots(comparison):
        text = _render(plot, "svg", bare=False, size=plot.size).decode()
        adapted = adapt(text, name=plot.name, title=plot.title, description=plot.description)
        (folder / f"{plot.name}.svg").write_text(standalone(adapted), encoding="utf-8")
        (folder / f"{plot.name}.png").write_bytes(_render(plot, "png", bare=False, size=plot.size))


def all_plots(comparison: Comparison) -> list[Plot]:
    """Return every picture of a comparison."""
    series = series_of(comparison)
    plots = []
    for part in comparison.environments:
        plots += [*environment_plots(part, comparison.measure, series), *diagnostic_plots(part, series)]
    return plots + (across_plots(comparison.across, series) if comparison.across is not None else [])


def series_of(comparison: Comparison) -> dict[str, int]:
    """Return the index of each variant's colour: the same in every picture."""
    return {label: index for index, label in enumerate(comparison.labels)}


def environment_plots(part: EnvironmentComparison, measure: str, series: Mapping[str, int]) -> list[Plot]:
    """Return learning curves, final returns, pairs, profile, steps to the threshold, and wall time."""
    stem = slug(part.env)
    finals = {each.label: each.final[measure] for each in part.summaries}
    seeds = {each.label: each.variant.final(measure) for each in part.summaries}
    count, form = len(finals), decimals(finals.values())
    curves = {each.label: each.curves[LEARNING_CURVE] for each in part.summaries if LEARNING_CURVE in each.curves}
    plots = [
        Plot(
            f"{stem}-learning-curves",
            f"{part.env}: learning curves",
            "Return against steps, interquartile mean with 95% band. At the end of training: "
            + _list({label: _last(curve) for label, curve in curves.items()}, form),
            lambda axes: draw_curves(axes, curves, series, "return in training", part.threshold),
            WIDE,
            series,
        ),
        Plot(
            f"{stem}-final-return",
            f"{part.env}: final return, {measure}",
            f"Interquartile mean of the {measure} policy's final return with 95% interval: {_list(finals, form)}",
            lambda axes: draw_intervals(axes, finals, series, "return", seeds=seeds, form=form),
            rows_size(count),
        ),
        Plot(
            f"{stem}-profile",
            f"{part.env}: performance profile",
            "Share of seeds whose final return exceeds a level, with 95% band, for " + ", ".join(part.profile),
            lambda axes: draw_profile(axes, part.profile, series, "final return"),
            series=series,
        ),
    ]
    plots += pair_plots(stem, part.env, part.pairs)
    if part.threshold is not None:
        plots.append(reach_plot(stem, part, series))
    return [*plots, seconds_plot(stem, part, series)]


def pair_plots(stem: str, where: str, pairs: Sequence[Pair]) -> list[Plot]:
    """Return the picture of the pairs; of many pairs those whose intervals are furthest from one half."""
    if not pairs:
        return []
    shown = (
        sorted(pairs, key=lambda pair: -abs(pair.above.value - 0.5))[:MOST_PAIRS] if len(pairs) > MOST_PAIRS else pairs
    )
    found = {f"{pair.first} above {pair.second}": pair.above for pair in shown}
    return [
        Plot(
            f"{stem}-improvement",
            f"{where}: probability of improvement",
            f"Probability that a run of one variant ends above another's, with 95% interval: {_list(found, '.2f')}",
            lambda axes: draw_pairs(axes, shown),
            rows_size(len(shown), more=LINE_HEIGHT * (_most_lines(shown) - 1)),
        )
    ]


def reach_plot(stem: str, part: EnvironmentComparison, series: Mapping[str, int]) -> Plot:
    reaches = {each.label: each.reach for each in part.summaries if each.reach is not None}
    longest = max(each.variant.config["total_steps"] for each in part.summaries)
    described = "; ".join(
        f"{label}: {reach.reached} of {reach.seeds} seeds, upper median "
        + (f"{reach.steps.value:,.0f} steps" if np.isfinite(reach.steps.value) else "never")
        for label, reach in reaches.items()
    )

    def draw(axes: Any) -> None:
        # Ends that are never reached lie at the right edge, where an arrow says so.
        found = {label: _clipped(reach.steps, longest) for label, reach in reaches.items()}
        steps = {
            each.label: np.minimum(each.variant.first_reached(part.threshold or 0.0), longest)
            for each in part.summaries
        }
        texts = {label: f"{reach.reached}/{reach.seeds} seeds" for label, reach in reaches.items()}
        draw_intervals(axes, found, series, "steps of each seed", seeds=steps, texts=texts)
        never = [row for row, reach in enumerate(reaches.values()) if np.isinf(reach.steps.high)]
        for row, index in ((row, series[list(reaches)[row]]) for row in never):
            axes.plot(longest, row, ">", markersize=8, color=light(series_colour(index)), clip_on=False)
        axes.set_xlim(0, longest * 1.02)
        axes.xaxis.set_major_formatter(format_steps)

    title = f"{part.env}: steps to a return of {part.threshold:.4g}"
    return Plot(f"{stem}-steps-to-threshold", title, f"{described}.", draw, rows_size(len(reaches)))


def seconds_plot(stem: str, part: EnvironmentComparison, series: Mapping[str, int]) -> Plot:
    seconds = {each.label: sum(each.variant.train_seconds) for each in part.summaries}
    per_seed = {each.label: seconds[each.label] / len(each.variant.seeds) for each in part.summaries}

    def draw(axes: Any) -> None:
        rows = {label: Estimate(value, value, value) for label, value in seconds.items()}
        texts = {label: f"{seconds[label]:.1f} s, {per_seed[label]:.1f} s a seed" for label in rows}
        draw_intervals(axes, rows, series, "seconds of training, all seeds", texts=texts, bars=True)
        axes.set_xlim(0, max(seconds.values()) * 1.05)

    described = "; ".join(f"{label}: {value:.1f} s" for label, value in seconds.items())
    return Plot(f"{stem}-wall-time", f"{part.env}: wall time", f"{described}.", draw, rows_size(len(seconds)))


def diagnostic_plots(part: EnvironmentComparison, series: Mapping[str, int]) -> list[Plot]:
    """Return what was measured of the gradient and the policy while training, a picture for each that there is."""
    plots = []
    for column, (title, what) in DIAGNOSTICS.items():
        curves = {each.label: each.curves[column] for each in part.summaries if column in each.curves}
        if not curves:
            continue
        ends = {label: _last(curve) for label, curve in curves.items()}

        def draw(axes: Any, curves: Mapping[str, Band] = curves, column: str = column, title: str = title) -> None:
            draw_curves(axes, curves, series, "", None)
            _scale_diagnostic(axes, column, curves)

        plots.append(
            Plot(
                f"{slug(part.env)}-{slug(column)}",
                f"{part.env}: {title.lower()}",
                f"{title}, {what}, against steps. At the end: {_list(ends, '.3g')}",
                draw,
                series=series,
            )
        )
    return plots


def across_plots(across: AcrossComparison, series: Mapping[str, int]) -> list[Plot]:
    """Return normalised scores, profile and pairs over all environments."""
    return [
        Plot(
            "all-score",
            "All environments: normalised score",
            f"Interquartile mean of the score over environments, with 95% interval: {_list(across.final, '.2f')}",
            lambda axes: draw_intervals(axes, across.final, series, "score", form=".2f"),
            rows_size(len(across.final)),
        ),
        Plot(
            "all-profile",
            "All environments: performance profile",
            "Share of runs whose score exceeds a level, with 95% band, for " + ", ".join(across.profile),
            lambda axes: draw_profile(axes, across.profile, series, "normalised score"),
            series=series,
        ),
        *pair_plots("all", "All environments", across.pairs),
    ]


# Drawing ------------------------------------------------------------------------------------------------------------


def draw_curves(
    axes: Any, curves: Mapping[str, Band], series: Mapping[str, int], ylabel: str, threshold: float | None
) -> None:
    """Draw lines with bands; a dotted line where enough is reached."""
    if threshold is not None:
        axes.axhline(threshold, color=light("muted"), linestyle=":", linewidth=1.2)
        axes.annotate(
            f"{threshold:.4g}",
            (0, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(4, -3),
            textcoords="offset points",
            va="top",
            color=light("muted"),
        )
    for label, curve in curves.items():
        _line(axes, curve, series[label], label)
    axes.set(xlabel="steps of each seed", ylabel=ylabel)
    axes.xaxis.set_major_formatter(format_steps)
    axes.margins(x=0.01)


def draw_profile(axes: Any, profile: Mapping[str, Band], series: Mapping[str, int], xlabel: str) -> None:
    for label, curve in profile.items():
        _line(axes, curve, series[label], label, step=True)
    axes.set(xlabel=xlabel, ylabel="share of seeds above", ylim=(-0.02, 1.02))
    axes.margins(x=0.01)


def _line(axes: Any, curve: Band, index: int, label: str, *, step: bool = False) -> None:
    colour = light(series_colour(index))
    drawstyle = "steps-post" if step else "default"
    dashes = DASHES[series_pattern(index)]
    style = {"dashes": dashes} if dashes else {}
    axes.plot(curve.x, curve.value, color=colour, linewidth=1.8, label=label, drawstyle=drawstyle, **style)
    if np.isfinite(curve.low).any():
        axes.fill_between(
            curve.x, curve.low, curve.high, color=colour, alpha=0.16, linewidth=0, step="post" if step else None
        )


def draw_intervals(
    axes: Any,
    rows: Mapping[str, Estimate],
    series: Mapping[str, int],
    xlabel: str,
    *,
    seeds: Mapping[str, np.ndarray] | None = None,
    texts: Mapping[str, str] | None = None,
    form: str = ".1f",
    bars: bool = False,
) -> None:
    """Draw a row for each variant: its name and numbers in words, its interval, and each seed as a tick below."""
    for row, (label, found) in enumerate(rows.items()):
        index = series[label]
        colour, marker = light(series_colour(index)), MARKERS[series_pattern(index)]
        _row_text(axes, row, label, show(found, form) if texts is None else texts[label])
        if bars:
            axes.barh(row, found.value, height=0.26, color=colour)
            continue
        axes.plot([found.low, found.high], [row, row], color=colour, linewidth=3.2)
        axes.plot(found.value, row, marker=marker, markersize=6.5, color=colour, markeredgecolor=light("paper"))
        if seeds is not None:
            axes.plot(seeds[label], np.full(len(seeds[label]), row + 0.22), "|", color=colour, markersize=5, alpha=0.75)
    _rows(axes, len(rows), xlabel)


def draw_pairs(axes: Any, pairs: Sequence[Pair]) -> None:
    """Draw a row for each pair against the line of one half; a filled mark where the interval leaves it."""
    axes.axvline(0.5, color=light("muted"), linewidth=1.2)
    for row, pair in enumerate(pairs):
        colour = light("ink" if decide(pair, pair.above) is not None else "muted")
        _row_text(axes, row, _pair_text(pair), show(pair.above))
        axes.plot([pair.above.low, pair.above.high], [row, row], color=colour, linewidth=2.6)
        filled = colour if decide(pair, pair.above) is not None else light("paper")
        axes.plot(pair.above.value, row, "o", markersize=6.5, color=colour, markerfacecolor=filled)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
    _rows(axes, len(pairs), "probability that the first ends above the second")


def _pair_text(pair: Pair) -> str:
    """Return the pair in words: in two lines where one has no room for it."""
    whole = f"{pair.first} above {pair.second}"
    room = ROOM - len(show(pair.above))
    return whole if len(whole) <= room else f"{pair.first}\nabove {pair.second}"


def _most_lines(pairs: Sequence[Pair]) -> int:
    return max(_pair_text(pair).count("\n") for pair in pairs) + 1


def _row_text(axes: Any, row: int, left: str, right: str) -> None:
    """Write above a row, at both ends."""
    smaller = min(1.0, (ROOM - len(right) - 1) / max(len(line) for line in left.splitlines()))
    behind = {"facecolor": light("paper"), "edgecolor": "none", "pad": 0.8}  # no line of the grid through the words
    for x, text, align, colour, size in (
        (0.0, left, "left", "ink", STYLE["font.size"] * smaller),
        (1.0, right, "right", "muted", STYLE["font.size"]),
    ):
        where = {"transform": axes.get_yaxis_transform(), "ha": align, "va": "bottom", "fontsize": size}
        axes.text(x, row - 0.2, text, color=light(colour), bbox=behind, **where)


def _rows(axes: Any, count: int, xlabel: str) -> None:
    axes.set(ylim=(count - 0.6, -0.75), xlabel=xlabel)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)


def _scale_diagnostic(axes: Any, column: str, curves: Mapping[str, Band]) -> None:
    """Give a variance, which spans decades, a logarithmic axis; a cosine its range; a gap or a bias its zero."""
    smallest = min(float(np.min(curve.value)) for curve in curves.values())
    if column == "gradient/variance" and smallest > 0:
        axes.set_yscale("log")
    elif column == "gradient/cosine":
        axes.set_ylim(min(0.0, smallest) - 0.04, 1.04)
    elif column == "policy/soft_hard_gap":
        axes.axhline(0.0, color=light("muted"), linewidth=1.0)
    else:
        low, high = axes.get_ylim()
        axes.set_ylim(min(0.0, smallest) - 0.03 * (high - min(0.0, low)), high)


# Rendering ----------------------------------------------------------------------------------------------------------


def _render(plot: Plot, form: str, *, bare: bool, size: tuple[float, float]) -> bytes:
    """Return the picture; `bare` without title and legend, on nothing."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: Any = STYLE | {"svg.hashsalt": plot.name}  # matplotlib's types name every key
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        plot.draw(axes)
        if not bare:
            axes.set_title(plot.title)
            if plot.series:
                _put_legend(figure, axes, size)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, transparent=bare, metadata={"Date": None} if form == "svg" else None)
        return buffer.getvalue()


def _put_legend(figure: Any, axes: Any, size: tuple[float, float]) -> None:
    """Name the lines beside a wide picture, or below a narrow one, which grows; of very many only the first."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    if len(labels) > MOST_NAMED:
        rest = len(labels) - MOST_NAMED
        handles, labels = handles[: MOST_NAMED + 1], [*labels[:MOST_NAMED], f"and {rest} others"]
        handles[-1] = axes.plot([], [], alpha=0.0)[0]
    beside, longest = size == WIDE, max(map(len, labels))
    columns = 1 if beside else _columns(labels)
    high = LINE_HEIGHT * math.ceil(len(labels) / columns)
    needed = high + LINE_HEIGHT if beside else size[1] + high - 3 * LINE_HEIGHT  # three lines have room below
    if needed > size[1]:
        figure.set_size_inches(size[0], needed)
    smaller = min(1.0, ROOM / (longest + 6) if columns == 1 else 1.0)
    place = "outside right upper" if beside else "outside lower left"
    figure.legend(handles, labels, loc=place, ncols=columns, fontsize=STYLE["font.size"] * smaller)


def _columns(labels: Sequence[str]) -> int:
    """Return the columns of a legend below a narrow picture."""
    return max(1, min(3, len(labels), int(60 / (max(map(len, labels)) + 6))))


def rows_size(count: int, *, more: float = 0.0) -> tuple[float, float]:
    """Return the size of a picture of rows, each `more` inches higher than a line of words needs."""
    return NARROW[0], ROWS_MARGIN + (ROW_HEIGHT + more) * max(count, 2)


def format_steps(value: float, position: int | None = None) -> str:
    return "0" if value == 0 else f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"


def slug(text: str) -> str:
    """Return a name of letters, digits and hyphens."""
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def _clipped(found: Estimate, longest: float) -> Estimate:
    return Estimate(*(min(end, longest) for end in (found.value, found.low, found.high)))


def _last(curve: Band) -> Estimate:
    return Estimate(float(curve.value[-1]), float(curve.low[-1]), float(curve.high[-1]))


def _list(found: Mapping[str, Estimate], form: str) -> str:
    """Return the numbers in words."""
    shown = itertools.islice(found.items(), MOST_PAIRS)
    return "; ".join(f"{label} {show(each, form)}" for label, each in shown) + "."
