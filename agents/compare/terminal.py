"""The comparison on a terminal: tables with intervals drawn to a common scale, and the conclusions."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from gumbelrl.agents.compare.comparison import Comparison, EnvironmentComparison, Pair
from gumbelrl.agents.compare.conclusions import conclude, decide
from gumbelrl.agents.compare.formatting import decimals, show, show_reach, show_training, verdict
from gumbelrl.agents.compare.statistics import Estimate

BAR_WIDTH = 23
MOST_PAIRS = 10  # more than five variants: counts instead of pairs
PLAIN_WIDTH = 132
ROOM_FOR_BARS, ROOM_FOR_BOTH = 100, 128  # columns of the terminal, for variants of short names
SHORT_NAME, LONGEST_PAIR = 24, 56
BESIDE_BARS, BESIDE_BOTH = 90, 114  # what a long name leaves in a line


def print_comparison(comparison: Comparison, stream: TextIO | None = None) -> None:
    """Print what was found; colours only where the stream is a terminal."""
    from rich.console import Console

    stream = stream or sys.stdout
    width = shutil.get_terminal_size((PLAIN_WIDTH, 40)).columns if stream.isatty() else PLAIN_WIDTH
    console = Console(file=stream, width=width, highlight=False, markup=False)
    for part in comparison.environments:
        console.print()
        console.print(_heading(part.env, f"final return of the {comparison.measure} policy, 95% intervals"))
        console.print(variant_table(part, comparison.measure, width))
        if part.pairs:
            console.print(pair_table(part.pairs))
    if comparison.across is not None and comparison.across.pairs:
        console.print()
        console.print(_heading("All environments", "normalised score, environments count alike"))
        console.print(score_table(comparison.across.final))
        console.print(pair_table(comparison.across.pairs))
    for run, reason in comparison.left_out:
        place = f"{run.folder} {run.variation}".rstrip()
        console.print(f"not counted: {place} ({run.status}): {reason}", style="yellow", soft_wrap=True)
    console.print()
    for paragraph in conclude(comparison):
        console.print(paragraph)
    console.print()


def _heading(name: str, rest: str) -> Any:
    from rich.text import Text

    return Text.assemble((name, "bold"), "  ", (rest, "dim"))


def _table(*columns: tuple[str, str]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="dim", pad_edge=False, padding=(0, 1))
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=name != "variant" and name != "pair")  # type: ignore[arg-type]
    return table


def variant_table(part: EnvironmentComparison, measure: str, width: int) -> Any:
    """Return a row a variant: the compared return with its interval drawn, the other return, steps, wall time.

    A terminal narrower than `ROOM_FOR_BOTH` goes without the other return, one narrower than `ROOM_FOR_BARS` without
    the drawing; long names need more.
    """
    other = "greedy" if measure == "sampled" else "sampled"
    compared = [each.final[measure] for each in part.summaries]
    form, span = decimals(compared), _span(compared)
    longest = max(len(each.label) for each in part.summaries)
    bars = width >= (ROOM_FOR_BARS if longest <= SHORT_NAME else longest + BESIDE_BARS)
    both = width >= (ROOM_FOR_BOTH if longest <= SHORT_NAME else longest + BESIDE_BOTH)
    table = _table(
        ("variant", "left"),
        ("seeds", "right"),
        (f"{measure} return", "right"),
        *((_scale_header(span),) if bars else ()),
        *(((f"{other} return", "right"),) if both else ()),
        *(((f"reach {part.threshold:.4g} at step", "right"),) if part.threshold is not None else ()),
        ("training", "right"),
    )
    for each in part.summaries:
        cells = [each.label, str(len(each.variant.seeds)), show(each.final[measure], form)]
        cells += [draw(each.final[measure], *span)] if bars else []
        cells += [show(each.final[other], form)] if both else []
        cells += [show_reach(each.reach)] if each.reach is not None else []
        table.add_row(*cells, show_training(each))
    return table


def pair_table(pairs: Sequence[Pair]) -> Any:
    """Return a row a pair; of many pairs, or long names, a row a variant: how many others it is told apart from."""
    if len(pairs) > MOST_PAIRS or any(len(pair.first + pair.second) > LONGEST_PAIR for pair in pairs):
        return standing_table(pairs)
    sooner = any(pair.sooner is not None for pair in pairs)
    table = _table(
        ("pair", "left"),
        ("first ends above", "right"),
        ("0          ½          1", "left"),
        *((("first is sooner", "right"),) if sooner else ()),
        ("told apart", "left"),
    )
    for pair in pairs:
        cells = [f"{pair.first} – {pair.second}", show(pair.above), draw(pair.above, 0.0, 1.0)]
        cells += [show(pair.sooner)] if pair.sooner is not None else []
        table.add_row(*cells, verdict(pair))
    return table


def standing_table(pairs: Sequence[Pair]) -> Any:
    """Return, for each variant, the number of others that it is better and worse than, as far as intervals tell."""
    labels = list(dict.fromkeys(label for pair in pairs for label in (pair.first, pair.second)))
    others, only_best = len(labels) - 1, len(pairs) < len(labels)
    sooner = any(pair.sooner is not None for pair in pairs)
    names = ["ends above", "ends below", *(["is sooner than", "is later than"] if sooner else [])]
    table = _table(("variant", "left"), *((name, "right") for name in names))
    decided = [decide(pair, pair.above) for pair in pairs]
    decided_sooner = [decide(pair, pair.sooner) for pair in pairs if pair.sooner is not None]
    for label in labels[:1] if only_best else labels:
        counts = [
            sum(each is not None and each[place] == label for each in each_way)
            for each_way in ([decided, decided_sooner] if sooner else [decided])
            for place in (0, 1)
        ]
        table.add_row(label, *map(str, counts))
    table.caption = f"of {others} others; the report has every pair"
    if only_best and others > 1:
        table.caption = f"of {others} others; of so many variants only the best is compared with each"
    return table


def score_table(scores: Mapping[str, Estimate]) -> Any:
    span = _span(list(scores.values()))
    table = _table(("variant", "left"), ("score", "right"), _scale_header(span))
    for label, each in scores.items():
        table.add_row(label, show(each), draw(each, *span))
    return table


def draw(found: Estimate, lowest: float, highest: float) -> str:
    """Return an interval as characters, between two values: `··━━●━━···`."""
    if highest <= lowest:
        highest, lowest = lowest + 0.5, lowest - 0.5

    def place(value: float) -> int:
        return min(max(round((value - lowest) / (highest - lowest) * (BAR_WIDTH - 1)), 0), BAR_WIDTH - 1)

    cells = ["·"] * BAR_WIDTH
    if found.low == found.low:
        for index in range(place(found.low), place(found.high) + 1):
            cells[index] = "━"
    cells[place(found.value)] = "●"
    return "".join(cells)


def _span(found: Sequence[Estimate]) -> tuple[float, float]:
    """Return the smallest and the largest end of all intervals."""
    ends = [end for each in found for end in (each.value, each.low, each.high) if end == end]
    return min(ends), max(ends)


def _scale_header(span: tuple[float, float]) -> tuple[str, str]:
    low, high = (f"{end:.4g}" for end in span)
    return f"{low:<{BAR_WIDTH - len(high)}}{high}", "left"
