"""A comparison as JSON; NaN, "not known", and infinity, "never", are written as null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import gumbelrl
from gumbelrl.agents.compare.comparison import (
    DIAGNOSTICS,
    LEARNING_CURVE,
    AcrossComparison,
    Comparison,
    EnvironmentComparison,
    Pair,
    Summary,
)
from gumbelrl.agents.compare.conclusions import conclude
from gumbelrl.agents.compare.runs import Run
from gumbelrl.agents.compare.statistics import CONFIDENCE, CURVE_RESAMPLES, RESAMPLES, Band, Estimate

FORMAT, VERSION = "gumbelrl comparison", 1


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything that the report shows; `format` and `version` say how to read it."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "gumbelrl": gumbelrl.__version__,
        "measure": comparison.measure,
        "confidence": CONFIDENCE,
        "resamples": {"scalars": RESAMPLES, "curves": CURVE_RESAMPLES},
        "conclusions": conclude(comparison),
        "environments": {part.env: _environment(part) for part in comparison.environments},
        "across": None if comparison.across is None else _across(comparison.across),
        "runs": [
            {**_place(run), "status": run.status, "reason": run.reason, "config": _plain(run.config)}
            for run in comparison.runs
        ],
        "not_counted": [{**_place(run), "reason": reason} for run, reason in comparison.left_out],
    }


def _place(run: Run) -> dict[str, str]:
    return {"folder": str(run.folder)} | ({"variation": run.variation} if run.variation else {})


def _environment(part: EnvironmentComparison) -> dict[str, Any]:
    return {
        "threshold": part.threshold,
        "threshold_source": part.threshold_source,
        "scale": {"low": part.scale.low, "high": part.scale.high, "source": part.scale.source},
        "variants": {each.label: _summary(each) for each in part.summaries},
        "pairs": [_pair(pair) for pair in part.pairs],
        "performance_profile": {label: _band(band, "return") for label, band in part.profile.items()},
    }


def _summary(summary: Summary) -> dict[str, Any]:
    variant, reach = summary.variant, summary.reach
    return {
        "seeds": variant.seeds,
        "config": _plain(variant.config),
        "final_return": {
            measure: _estimate(found) | {"seeds": variant.final(measure).tolist()}
            for measure, found in summary.final.items()
        },
        "steps_to_threshold": None
        if reach is None
        else {"seeds_that_reach_it": reach.reached, "upper_median": _estimate(reach.steps)},
        "train_seconds": variant.train_seconds,
        "learning_curve": _band(summary.curves[LEARNING_CURVE], "step") if LEARNING_CURVE in summary.curves else None,
        "diagnostics": {name: _band(summary.curves[name], "step") for name in DIAGNOSTICS if name in summary.curves},
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "probability_of_improvement": _estimate(pair.above),
        "probability_of_reaching_the_threshold_sooner": None if pair.sooner is None else _estimate(pair.sooner),
    }


def _across(across: AcrossComparison) -> dict[str, Any]:
    return {
        "normalised_score": {label: _estimate(found) for label, found in across.final.items()},
        "pairs": [_pair(pair) for pair in across.pairs],
        "performance_profile": {label: _band(band, "score") for label, band in across.profile.items()},
    }


def _estimate(found: Estimate) -> dict[str, float | None]:
    return {"value": _number(found.value), "low": _number(found.low), "high": _number(found.high)}


def _band(found: Band, x: str) -> dict[str, list[float | None]]:
    arrays = {x: found.x, "value": found.value, "low": found.low, "high": found.high}
    return {name: [_number(value) for value in array.tolist()] for name, array in arrays.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it, without NaN."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return _number(float(value))
    return value
