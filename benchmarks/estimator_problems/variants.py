"""The temperatures at which an estimator is measured."""

from __future__ import annotations

from gumbelrl.policies import ESTIMATORS


def temperatures(name: str, choices: tuple[float, ...] = (1.0, 0.5, 0.1)) -> tuple[float, ...]:
    """Return those of `choices` that make a difference."""
    return choices if ESTIMATORS[name].temperature != "unused" else choices[:1]


def label(name: str, temperature: float) -> str:
    return name if ESTIMATORS[name].temperature == "unused" else f"{name} τ={temperature:g}"


def by_temperature(name: str, found: dict) -> list[tuple[str, object]]:
    """Return (label, result) of what `measure` returned by temperature (its keys are text, as JSON has them)."""
    return [(label(name, float(t)), each) for t, each in found.items()]
