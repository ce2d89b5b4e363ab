"""A sweep as W&B writes it in YAML, and the configurations that random and grid search make of it.

Format: https://docs.wandb.ai/models/sweeps/sweep-config-keys (read 2026). What only W&B's server can do, Bayesian
search and early stopping, is refused or told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gumbelrl.agents.errors import RunError, choose

METHODS = ("random", "grid")
GOALS = ("maximize", "minimize")
Value = Any
Draw = Callable[[np.random.Generator, Mapping[str, float]], float]


def _uniform(generator: np.random.Generator, p: Mapping[str, float]) -> float:
    return float(generator.uniform(p["min"], p["max"]))


def _log_uniform_values(generator: np.random.Generator, p: Mapping[str, float]) -> float:
    return float(np.exp(generator.uniform(math.log(p["min"]), math.log(p["max"]))))


def _normal(generator: np.random.Generator, p: Mapping[str, float]) -> float:
    return float(generator.normal(p.get("mu", 0.0), p.get("sigma", 1.0)))


# What each distribution needs, what it may have, and how it is drawn; `q_` before a name rounds to multiples of q.
CONTINUOUS: dict[str, tuple[set[str], set[str], Draw]] = {
    "uniform": ({"min", "max"}, set(), _uniform),
    "log_uniform": ({"min", "max"}, set(), lambda g, p: math.exp(_uniform(g, p))),
    "inv_log_uniform": ({"min", "max"}, set(), lambda g, p: math.exp(-_uniform(g, p))),
    "log_uniform_values": ({"min", "max"}, set(), _log_uniform_values),
    "inv_log_uniform_values": ({"min", "max"}, set(), _log_uniform_values),  # ln 1/X is uniform where ln X is
    "normal": (set(), {"mu", "sigma"}, _normal),
    "log_normal": (set(), {"mu", "sigma"}, lambda g, p: math.exp(_normal(g, p))),
    "beta": (set(), {"a", "b"}, lambda g, p: float(g.beta(p.get("a", 1.0), p.get("b", 1.0)))),
}
QUANTISED = {f"q_{name}": name for name in CONTINUOUS if not name.startswith("inv_")}
DISTRIBUTIONS = ("constant", "categorical", "categorical_w_probabilities", "int_uniform", *CONTINUOUS, *QUANTISED)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Attributes:
        values: what it can be, of a finite one; empty otherwise.
        probabilities: of the values.
        settings: numbers of a continuous distribution.
    """

    name: str
    distribution: str
    values: tuple[Value, ...] = ()
    probabilities: tuple[float, ...] = ()
    settings: Mapping[str, float] | None = None

    def draw(self, generator: np.random.Generator) -> Value:
        if self.values:
            probabilities = self.probabilities or None
            return self.values[int(generator.choice(len(self.values), p=probabilities))]
        assert self.settings is not None
        base = QUANTISED.get(self.distribution, self.distribution)
        value = CONTINUOUS[base][2](generator, self.settings)
        if self.distribution in QUANTISED:
            return _quantise(value, self.settings.get("q", 1.0))
        return value


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for.

    Attributes:
        metric, maximise: what configurations are ranked by.
        run_cap: the most configurations; None where the file names none.
        words: fixed options, from the file's `command`.
        ignored: keys that only W&B's server heeds.
    """

    method: str
    metric: str
    maximise: bool
    parameters: tuple[Parameter, ...]
    run_cap: int | None
    words: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


# Reading ------------------------------------------------------------------------------------------------------------


def read_sweep(path: Path) -> Sweep:
    """Return the sweep in a file.

    Raises:
        RunError: there is no such file, or something in it cannot be; the message names the place.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"--sweep {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RunError(f"--sweep {path} is not YAML: {error}") from error
    try:
        return parse_sweep(data)
    except RunError as error:
        raise RunError(f"--sweep {path}: {error}") from error


def parse_sweep(data: Any) -> Sweep:
    """Return the sweep that a file's contents describe.

    Raises:
        RunError: something is missing or cannot be.
    """
    if not isinstance(data, dict) or not isinstance(data.get("parameters"), dict) or not data["parameters"]:
        raise RunError("a sweep needs `parameters`, each with value, values, or min and max")
    method = data.get("method")
    if method == "bayes":
        raise RunError("method bayes needs W&B's server (`wandb agent`); the local sweeper knows random and grid")
    choose("method", str(method), METHODS)
    metric = data.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise RunError("a sweep needs `metric`, with a name such as eval/sampled_return_mean and a goal")
    goal = choose("goal", str(metric.get("goal", "minimize")), GOALS)
    cap = data.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        raise RunError(f"run_cap must be a whole number of at least 1, got {cap}")
    return Sweep(
        method=str(method),
        metric=metric["name"],
        maximise=goal == "maximize",
        parameters=tuple(parse_parameter(str(name), entry) for name, entry in data["parameters"].items()),
        run_cap=cap,
        words=_fixed_words(data.get("command", ()), str(data.get("program", "train.py"))),
        ignored=tuple(name for name in ("early_terminate",) if name in data),
    )


def parse_parameter(name: str, entry: Any) -> Parameter:
    """Return one parameter; without a `distribution` it follows, as with W&B, from what is given."""
    if not isinstance(entry, dict):
        raise RunError(f"parameter {name} must have value, values, or min and max, got {entry!r}")
    if "parameters" in entry:
        raise RunError(f"parameter {name} is nested, but the options of train.py are flat: name its parts directly")
    distribution = choose(
        f"distribution of parameter {name}", str(entry.get("distribution") or _implied(name, entry)), DISTRIBUTIONS
    )
    if distribution == "constant":
        return Parameter(name, distribution, values=(_get(name, entry, "value"),))
    if distribution in ("categorical", "categorical_w_probabilities"):
        return _categorical(name, entry, distribution)
    if distribution == "int_uniform":
        low, high = (_number(name, entry, key) for key in ("min", "max"))
        _check_order(name, low, high)
        if low != int(low) or high != int(high):
            raise RunError(f"parameter {name}: the min and max of int_uniform must be whole, got {low} and {high}")
        return Parameter(name, distribution, values=tuple(range(int(low), int(high) + 1)))
    return _continuous(name, entry, distribution)


def _implied(name: str, entry: Mapping[str, Any]) -> str:
    if "values" in entry:
        return "categorical_w_probabilities" if "probabilities" in entry else "categorical"
    if "value" in entry:
        return "constant"
    if "min" in entry and "max" in entry:
        whole = all(isinstance(entry[key], int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise RunError(f"parameter {name} must have value, values, or min and max, got {sorted(entry)}")


def _categorical(name: str, entry: Mapping[str, Any], distribution: str) -> Parameter:
    values = _get(name, entry, "values")
    if not isinstance(values, list) or not values:
        raise RunError(f"parameter {name}: values must be a list of at least one, got {values!r}")
    probabilities = tuple(entry.get("probabilities", ())) if distribution != "categorical" else ()
    if probabilities and (len(probabilities) != len(values) or not math.isclose(sum(probabilities), 1.0)):
        raise RunError(f"parameter {name}: it needs {len(values)} probabilities that sum to 1, got {probabilities}")
    return Parameter(name, distribution, values=tuple(values), probabilities=probabilities)


def _continuous(name: str, entry: Mapping[str, Any], distribution: str) -> Parameter:
    base = QUANTISED.get(distribution, distribution)
    needed, optional, _ = CONTINUOUS[base]
    optional = optional | ({"q"} if distribution in QUANTISED else set())
    settings = {key: _number(name, entry, key) for key in needed | (optional & set(entry))}
    if "min" in settings:
        _check_order(name, settings["min"], settings["max"])
    if base.endswith("_values") and settings["min"] <= 0:
        raise RunError(f"parameter {name}: the min of {distribution} must be above 0, got {settings['min']}")
    if distribution == "q_uniform":
        q = settings.get("q", 1.0)
        count = int((settings["max"] - settings["min"]) / q + 1e-9) + 1
        grid = tuple(_quantise(settings["min"] + index * q, q) for index in range(count))
        return Parameter(name, distribution, values=grid)
    return Parameter(name, distribution, settings=settings)


def _get(name: str, entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise RunError(f"parameter {name} lacks {key}")
    return entry[key]


def _number(name: str, entry: Mapping[str, Any], key: str) -> float:
    """Return a number; YAML reads 1e-3, without a point, as a word."""
    try:
        return float(_get(name, entry, key))
    except (TypeError, ValueError):
        raise RunError(f"parameter {name}: {key} must be a number, got {entry[key]!r}") from None


def _check_order(name: str, low: float, high: float) -> None:
    if not low <= high:
        raise RunError(f"parameter {name}: min {low:g} is above max {high:g}")


def _quantise(value: float, q: float) -> float | int:
    rounded = round(value / q) * q
    return int(rounded) if float(q).is_integer() else round(rounded, 12)


def _fixed_words(command: Sequence[Any], program: str) -> tuple[str, ...]:
    """Return the options that a sweep's `command` has beside W&B's macros: they hold for every configuration."""
    words = [str(word) for word in command]
    start = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return tuple(word for word in words[start:] if not word.startswith("${") and word != program)


# Configurations -----------------------------------------------------------------------------------------------------


def configurations(sweep: Sweep, *, count: int | None = None, seed: int = 0) -> list[dict[str, Value]]:
    """Return what to try: name -> value; the same for the same seed.

    Args:
        count: the most to return; the file's `run_cap` by default.

    Raises:
        RunError: random search without an end, or a grid over a continuous parameter.
    """
    cap = count if count is not None else sweep.run_cap
    if cap is not None and cap < 1:
        raise RunError(f"--count must be at least 1, got {cap}")
    if sweep.method == "grid":
        return list(itertools.islice(_grid(sweep), cap))
    if cap is None:
        raise RunError("random search has no end: give --count, or run_cap in the sweep file")
    return _random(sweep, cap, seed)


def _grid(sweep: Sweep) -> Iterator[dict[str, Value]]:
    for parameter in sweep.parameters:
        if not parameter.values:
            raise RunError(f"a grid needs values of {parameter.name}, which is {parameter.distribution}")
    names = [parameter.name for parameter in sweep.parameters]
    for values in itertools.product(*(parameter.values for parameter in sweep.parameters)):
        yield dict(zip(names, values, strict=True))


def _random(sweep: Sweep, count: int, seed: int) -> list[dict[str, Value]]:
    """Draw without repeating; a finite space may hold fewer than asked for."""
    generator = np.random.default_rng(seed)
    found: dict[str, dict[str, Value]] = {}
    for _ in range(100 * count):
        drawn = {parameter.name: parameter.draw(generator) for parameter in sweep.parameters}
        found.setdefault(repr(drawn), drawn)
        if len(found) == count:
            break
    return list(found.values())


def option_words(configuration: Mapping[str, Value]) -> list[str]:
    """Return a configuration as words of the command line."""
    words: list[str] = []
    for name, value in configuration.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list):
            words += [f"--{option}", *map(str, value)]
        else:
            words.append(f"--{option}={value}")
    return words
