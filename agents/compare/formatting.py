"""Numbers as a person reads them, the same on the terminal and on the page."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gumbelrl.agents.compare.comparison import Pair, Reach, Summary
from gumbelrl.agents.compare.conclusions import decide
from gumbelrl.agents.compare.statistics import Estimate
from gumbelrl.agents.progress import format_seconds


def show(found: Estimate, form: str = ".2f") -> str:
    """Return `value [low, high]`; a value alone where there is no interval."""
    value = f"{found.value:{form}}"
    return value if math.isnan(found.low) else f"{value} [{found.low:{form}}, {found.high:{form}}]"


def decimals(found: Iterable[Estimate]) -> str:
    """Return the format that suits returns of this size: three or four digits."""
    largest = max(abs(end) for each in found for end in (each.value, each.low, each.high) if math.isfinite(end))
    return ",.0f" if largest >= 5000 else ".1f" if largest >= 10 else ".2f" if largest >= 2 else ".3f"


def show_steps(steps: Estimate) -> str:
    """Return `84k [78k, never]`."""
    ends = [_steps(end) for end in (steps.value, steps.low, steps.high)]
    return ends[0] if math.isnan(steps.low) else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _steps(value: float) -> str:
    return "never" if math.isinf(value) else f"{value / 1000:.0f}k" if value >= 10_000 else f"{value / 1000:.1f}k"


def show_reach(reach: Reach) -> str:
    """Return `10/10: 84k [78k, 92k]`."""
    return f"{reach.reached}/{reach.seeds}: {show_steps(reach.steps)}" if reach.reached else f"0/{reach.seeds}"


def show_seeds(seeds: Iterable[int]) -> str:
    """Return `0–9, 12`."""
    spans: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in spans) or "–"


def show_training(summary: Summary) -> str:
    """Return the wall time of each of a variant's runs."""
    return " + ".join(format_seconds(seconds) for seconds in summary.variant.train_seconds)


def verdict(pair: Pair) -> str:
    """Return which of the two is better and by what: `gumbel by end and speed`, or `no`."""
    by: dict[str, list[str]] = {}
    for found, word in ((pair.above, "end"), (pair.sooner, "speed")):
        if found is not None and (decided := decide(pair, found)) is not None:
            by.setdefault(decided[0], []).append(word)
    return ", ".join(f"{label} by {' and '.join(words)}" for label, words in by.items()) or "no"
