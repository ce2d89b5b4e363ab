"""From runs to intervals: everything that the table, the plots, the page and the JSON show is computed here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np

from gumbelrl.agents.compare.runs import Run, find_runs
from gumbelrl.agents.compare.statistics import (
    Band,
    Estimate,
    band,
    estimate,
    performance_profile,
    probability_of_improvement,
    upper_median,
)
from gumbelrl.agents.compare.variants import Variant, group_runs
from gumbelrl.agents.errors import RunError

MEASURES = ("sampled", "greedy")
LEARNING_CURVE = "train/return"
DIAGNOSTICS = {  # column -> what it is called, and what it is
    "gradient/bias": ("Bias", "distance of the mean estimate from the exact gradient"),
    "gradient/variance": ("Variance", "of one gradient estimate, summed over logits"),
    "gradient/cosine": ("Cosine", "between one batch's estimate and the exact gradient"),
    "policy/soft_hard_gap": ("Soft–hard gap", "critic at relaxed less critic at one-hot actions"),
    "policy/entropy": ("Entropy", "of the policy, in nats"),
    "policy/temperature": ("Temperature", "of the relaxation"),
}
ENOUGH_OF_OPTIMUM = 0.9
PROFILE_POINTS = 101
MOST_PAIRED = 24  # variants of which every pair is compared, 276; of more, the best with each


@dataclass(frozen=True)
class Reach:
    """How soon seeds reached the threshold; an infinite end of the interval says "not within the run"."""

    reached: int
    seeds: int
    steps: Estimate


@dataclass(frozen=True)
class Summary:
    """What is said of one variant in one environment."""

    variant: Variant
    final: Mapping[str, Estimate]
    reach: Reach | None
    curves: Mapping[str, Band]

    @property
    def label(self) -> str:
        return self.variant.label


@dataclass(frozen=True)
class Pair:
    """Two variants: the probability that a run of the first ends above, and reaches the threshold before, the other's.

    Attributes:
        seeds: the smaller number of seeds.
    """

    first: str
    second: str
    above: Estimate
    sooner: Estimate | None
    seeds: int


@dataclass(frozen=True)
class Scale:
    """Scores are (return − low) / (high − low); `source` says what the two are."""

    low: float
    high: float
    source: str

    def score(self, returns: np.ndarray) -> np.ndarray:
        return (returns - self.low) / (self.high - self.low) if self.high > self.low else np.ones_like(returns)


@dataclass(frozen=True)
class EnvironmentComparison:
    """All variants in one environment; `threshold_source` says who calls the threshold enough."""

    env: str
    summaries: list[Summary]
    threshold: float | None
    threshold_source: str
    pairs: list[Pair]
    profile: Mapping[str, Band]
    scale: Scale


@dataclass(frozen=True)
class AcrossComparison:
    """The variants that every environment has, by normalised score; environments count alike."""

    labels: list[str]
    final: Mapping[str, Estimate]
    pairs: list[Pair]
    profile: Mapping[str, Band]


@dataclass(frozen=True)
class Comparison:
    """Everything that a report shows.

    Attributes:
        measure: which final return is compared, `sampled` or `greedy`.
        left_out: runs that do not count, with the reason.
    """

    runs: list[Run]
    measure: str
    environments: list[EnvironmentComparison]
    across: AcrossComparison | None
    left_out: list[tuple[Run, str]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """All variants, in the order met."""
        return list(dict.fromkeys(each.label for part in self.environments for each in part.summaries))


def compare(paths: Sequence[Path], *, measure: str = "sampled", threshold: float | None = None) -> Comparison:
    """Compare the runs in some folders.

    Args:
        measure: the final return that is compared: of the policy `sampled`, or `greedy`.
        threshold: the return that counts as enough; by default gymnasium's, or else 90% of the way to the optimum.

    Raises:
        RunError: there is no run, or none is finished.
    """
    if measure not in MEASURES:
        raise RunError(f"unknown measure {measure!r}; choose one of {', '.join(MEASURES)}")
    runs = find_runs(paths)
    variants, repeated = group_runs(runs)
    left_out = [(run, run.reason) for run in runs if run.status != "finished"] + repeated
    if not variants:
        listed = "".join(f"\n  {run.folder}: {run.status}: {reason}" for run, reason in left_out)
        raise RunError(f"none of these runs is finished, so that there is nothing to compare:{listed}")
    environments = [
        compare_in_environment([each for each in variants if each.env == env], measure, threshold)
        for env in dict.fromkeys(each.env for each in variants)
    ]
    return Comparison(runs, measure, environments, compare_across(environments, measure), left_out)


def compare_in_environment(variants: Sequence[Variant], measure: str, asked: float | None) -> EnvironmentComparison:
    env = variants[0].env
    optimum = known_optimum(env, native=bool(variants[0].config.get("native", True)))
    scale = find_scale(variants, measure, optimum)
    threshold, source = find_threshold(env, asked, scale if optimum is not None else None)
    finals = {each.label: each.final(measure) for each in variants}
    steps = {} if threshold is None else {each.label: capped_steps(each, threshold) for each in variants}
    highest, lowest = (f(np.concatenate(list(finals.values()))) for f in (np.max, np.min))
    levels = np.linspace(lowest, highest, PROFILE_POINTS) if highest > lowest else np.array([lowest - 1, lowest])
    return EnvironmentComparison(
        env=env,
        summaries=[summarise(each, threshold) for each in variants],
        threshold=threshold,
        threshold_source=source,
        pairs=[
            Pair(
                first,
                second,
                estimate([finals[first], finals[second]], probability_of_improvement),
                estimate([-steps[first], -steps[second]], probability_of_improvement) if steps else None,
                min(len(finals[first]), len(finals[second])),
            )
            for first, second in choose_pairs(finals)
        ],
        profile={name: performance_profile([values], levels) for name, values in finals.items()},
        scale=scale,
    )


def choose_pairs(finals: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """Return the pairs of variants that are compared: all, but of very many those of the best by its mean."""
    if len(finals) <= MOST_PAIRED:
        return list(itertools.combinations(finals, 2))
    best = max(finals, key=lambda label: float(finals[label].mean()))
    return [(best, label) for label in finals if label != best]


def summarise(variant: Variant, threshold: float | None) -> Summary:
    curves = {}
    for column in (LEARNING_CURVE, *DIAGNOSTICS):
        if (curve := variant.curve(column)) is not None:
            steps, values = curve
            curves[column] = band(steps, [values])
    return Summary(
        variant,
        {measure: estimate([variant.final(measure)]) for measure in MEASURES},
        None if threshold is None else summarise_reach(variant, threshold),
        curves,
    )


def summarise_reach(variant: Variant, threshold: float) -> Reach:
    steps = capped_steps(variant, threshold)
    longest = variant.config["total_steps"]
    found = estimate([steps], upper_median)
    ends = (float("inf") if end > longest else end for end in (found.value, found.low, found.high))
    return Reach(int((steps <= longest).sum()), len(steps), Estimate(*ends))


def capped_steps(variant: Variant, threshold: float) -> np.ndarray:
    """Return the step at which each seed reached the threshold, twice the length of the run for never."""
    steps, longest = variant.first_reached(threshold), float(variant.config["total_steps"])
    last = max(float(columns["step"][-1]) for columns in variant.columns)  # whole rollouts may exceed what was asked
    return np.where(np.isfinite(steps), np.minimum(steps, longest), 2 * max(longest, last))


def known_optimum(env: str, *, native: bool) -> float | None:
    """Return the optimal return of one of our environments, or of a gymnasium id that has a native twin."""
    from gumbelrl.envs import make

    try:
        made = make(env, num_envs=1, native=native)
    except ValueError:  # not installed here: runs may come from another machine
        return None
    optimum = getattr(made, "optimal_return", None)
    made.close()
    return None if optimum is None else float(optimum)


def find_scale(variants: Sequence[Variant], measure: str, optimum: float | None) -> Scale:
    """Return the scale of normalised scores: 0 where training began, 1 at the optimum."""
    firsts = [curve[1][0] for each in variants if (curve := each.curve(LEARNING_CURVE)) is not None]
    finals = np.concatenate([each.final(measure) for each in variants])
    low = float(np.median(np.concatenate(firsts))) if firsts else float(finals.min())
    if optimum is not None and optimum > low:
        return Scale(low, optimum, "0 is the median return where training began, 1 the optimum")
    if finals.max() > low:
        source = "0 is the median return where training began, 1 the best run's final return"
        return Scale(low, float(finals.max()), source)
    return Scale(float(finals.min()), float(finals.max()), "0 is the worst run's final return, 1 the best run's")


def find_threshold(env: str, asked: float | None, scale: Scale | None) -> tuple[float | None, str]:
    """Return the return that is enough, and who says so; `scale` ends at the optimum, None where none is known."""
    if asked is not None:
        return asked, "as asked"
    spec = gymnasium.registry.get(env)
    if spec is not None and spec.reward_threshold is not None:
        return float(spec.reward_threshold), "where gymnasium calls it solved"
    if scale is None or scale.high <= scale.low:
        return None, "no threshold is known; --threshold names one"
    share = f"{ENOUGH_OF_OPTIMUM:.0%} of the way from where training began to the optimum"
    return scale.low + ENOUGH_OF_OPTIMUM * (scale.high - scale.low), share


def compare_across(environments: Sequence[EnvironmentComparison], measure: str) -> AcrossComparison | None:
    """Compare what all environments have; None of one environment, or where no variant was run in all."""
    if len(environments) < 2:
        return None
    scores: dict[str, list[np.ndarray]] = {}
    for part in environments:
        for each in part.summaries:
            scores.setdefault(each.label, []).append(part.scale.score(each.variant.final(measure)))
    scores = {label: values for label, values in scores.items() if len(values) == len(environments)}
    if not scores:
        return None
    pairs = [
        Pair(
            first,
            second,
            estimate([*scores[first], *scores[second]], probability_of_improvement),
            None,
            min(len(values) for label in (first, second) for values in scores[label]),
        )
        for first, second in choose_pairs({label: np.concatenate(values) for label, values in scores.items()})
    ]
    everything = np.concatenate([values for each in scores.values() for values in each])
    levels = np.linspace(min(0.0, float(everything.min())), max(1.0, float(everything.max())), PROFILE_POINTS)
    return AcrossComparison(
        list(scores),
        {label: estimate(values) for label, values in scores.items()},
        pairs,
        {label: performance_profile(values, levels) for label, values in scores.items()},
    )
