"""Plain sentences that the intervals allow, and no others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gumbelrl.agents.compare.comparison import Comparison, EnvironmentComparison, Pair
from gumbelrl.agents.compare.statistics import Estimate

MOST_SAID = 6  # pairs in a sentence; more are counted
FEWEST_SEEDS = 5  # four against four are separated wholly by chance once in 35; three against three once in 10


def conclude(comparison: Comparison) -> list[str]:
    """Return what can be said, a paragraph for each environment, then what must be borne in mind."""
    said = [" ".join(conclude_environment(part, comparison.measure)) for part in comparison.environments]
    if comparison.across is not None and comparison.across.pairs:
        where = f"Over all {len(comparison.environments)} environments together"
        pairs = [(pair, pair.above) for pair in comparison.across.pairs]
        said.append(" ".join(_pairs(where, pairs, "ends above", "by where they end")))
    count = sum(len(part.pairs) for part in comparison.environments)
    timed = any(pair.sooner is not None for part in comparison.environments for pair in part.pairs)
    if count > 3:
        said.append(
            f"{count} pairs are compared{', by end and by speed,' * timed} at 95% each: even if nothing differed, "
            f"about {max(1, round(count * (1 + timed) / 20))} would look as if it did."
        )
    if comparison.left_out:
        runs = "1 run is" if len(comparison.left_out) == 1 else f"{len(comparison.left_out)} runs are"
        said.append(f"{runs} not counted, and listed with the reason.")
    return said


def conclude_environment(part: EnvironmentComparison, measure: str) -> list[str]:
    """Return what the intervals of one environment say."""
    if not part.pairs:
        return [f"In {part.env} there is one variant only: nothing to compare it with."]
    if max(pair.seeds for pair in part.pairs) < FEWEST_SEEDS:
        few = max(pair.seeds for pair in part.pairs)
        seeds = "one seed" if few == 1 else f"{few} seeds"
        return [
            f"In {part.env} nothing can be concluded from {seeds} a variant: at least {FEWEST_SEEDS} are needed, and "
            "10 are better."
        ]
    said = []
    finals = [each.final[measure] for each in part.summaries]
    if all(final.low == final.high == finals[0].value for final in finals):
        said.append(f"In {part.env} every variant ends at {finals[0].value:.4g}: the end tells nothing apart.")
    else:
        above = [(pair, pair.above) for pair in part.pairs]
        said += _pairs(f"In {part.env}", above, "ends above", "by where they end")
    sooner = [(pair, pair.sooner) for pair in part.pairs if pair.sooner is not None]
    never = all(each.reach is not None and each.reach.reached == 0 for each in part.summaries)
    if sooner and never:
        said.append(f"No seed of any variant reaches {part.threshold:.4g} there.")
    elif sooner:
        said += _pairs(
            "There", sooner, f"reaches {part.threshold:.4g} sooner than", f"by how soon they reach {part.threshold:.4g}"
        )
    return said


def _pairs(where: str, pairs: Sequence[tuple[Pair, Estimate]], verb: str, how: str) -> list[str]:
    """Return a sentence of the pairs that are told apart, and one of those that are not."""
    enough = [(pair, found) for pair, found in pairs if pair.seeds >= FEWEST_SEEDS]
    decided = [each for pair, found in enough if (each := decide(pair, found)) is not None]
    undecided = [(pair.first, pair.second) for pair, found in enough if decide(pair, found) is None]
    said = []
    if len(decided) > MOST_SAID:
        beaten = Counter(better for better, _, _ in decided)
        counts = ", ".join(f"{label} {count}" for label, count in beaten.most_common())
        said.append(
            f"{where}, {len(decided)} of {len(pairs)} pairs are told apart {how}. Number of others that a variant "
            f"{verb}: {counts}."
        )
    elif decided:
        listed = [f"{better} {verb} {worse} with probability {_interval(found)}" for better, worse, found in decided]
        said.append(f"{where}, {_join(listed)}.")
        where = "There"
    if undecided and len(undecided) == len(pairs):
        said.append(f"{where}, no two variants can be told apart {how}: every interval includes ½.")
    elif undecided and len(decided) <= MOST_SAID:
        listed = [f"{first} and {second}" for first, second in undecided]
        listed = listed if len(listed) <= 4 else [f"{len(listed)} other pairs"]
        said.append(f"Not told apart {how}, their intervals including ½: {'; '.join(listed)}.")
    few = len(pairs) - len(enough)
    if few:
        said.append(f"{few} pair{'s' * (few > 1)} with fewer than {FEWEST_SEEDS} seeds allow no conclusion.")
    return said


def decide(pair: Pair, found: Estimate) -> tuple[str, str, Estimate] | None:
    """Return (better, worse, probability) where the interval lies wholly on one side of one half, or None."""
    if found.low > 0.5:
        return pair.first, pair.second, found
    if found.high < 0.5:
        return pair.second, pair.first, Estimate(1 - found.value, 1 - found.high, 1 - found.low)
    return None


def _interval(found: Estimate) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + ", and " + words[-1]
