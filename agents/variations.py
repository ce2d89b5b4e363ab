"""Members that differ in settings, as the command line asks for them: `--vary learning-rate=3e-4,1e-3`.

A variation is what a member has of its own, setting -> value. All combinations of values, each with all seeds, are the
members of one run; in the configuration of a run every member has a seed and a variation, in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.member_settings import MemberTemperatures, vary
from gumbelrl.agents.registry import AGENTS
from gumbelrl.policies import parse_temperature
from gumbelrl.policies.temperature import Schedule

if TYPE_CHECKING:
    from gumbelrl.agents.run_config import RunConfig

Variation = dict[str, Any]
"""Setting -> value: a number, or of `temperature` a schedule as text."""

TEMPERATURE = "temperature"
EXAMPLE = "--vary learning-rate=3e-4,1e-3"
OF_THEIR_OWN = {"env": "--env", "agent": "--agent", "policy": "--policy", "critic": "--critic"}


# Asking -------------------------------------------------------------------------------------------------------------


def parse_variations(words: Sequence[str]) -> tuple[Variation, ...]:
    """`["learning-rate=3e-4,1e-3", "temperature=.5,1"]` -> the four combinations, the first setting slowest.

    Raises:
        RunError: a word is not NAME=VALUE,VALUE, names a setting again, or gives a value twice.
    """
    choices: dict[str, list[Any]] = {}
    for word in words:
        option, equals, rest = word.partition("=")
        texts = [text.strip() for text in rest.split(",")]
        if not equals or not option or not all(texts):
            raise RunError(f"--vary {word}: give a setting and its values, such as {EXAMPLE}")
        name = option.removeprefix("--").replace("-", "_")
        if name in choices:
            raise RunError(f"--vary {word}: {option} is given more than once; name all its values at once")
        choices[name] = [_parse(option, text) for text in texts]
        if repeated := [each for each in choices[name] if choices[name].count(each) > 1]:
            raise RunError(f"--vary {word}: {show(repeated[0])} is given more than once")
    if not choices:
        return ()
    return tuple(dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values()))


def _parse(option: str, text: str) -> Any:
    """Return a value; words are left to `check_variations`, which knows what they are of."""
    try:
        number = float(text)
    except ValueError:
        return text
    return repr(number) if option == TEMPERATURE else number


def with_seeds(seeds: Sequence[int], variations: Sequence[Variation]) -> tuple[tuple[int, ...], tuple[Variation, ...]]:
    """Return the seed and the variation of each member: all variations with all seeds, variations slowest."""
    if not variations:
        return tuple(seeds), ()
    pairs = [(seed, variation) for variation in variations for seed in seeds]
    return tuple(seed for seed, _ in pairs), tuple(variation for _, variation in pairs)


def for_agent(agent: str, variations: Sequence[Variation]) -> tuple[Variation, ...]:
    """Return the variations less their temperatures for an agent that takes none and stands beside others that do."""
    if AGENTS[agent].uses_estimator:
        return tuple(variations)
    kept = [{name: value for name, value in each.items() if name != TEMPERATURE} for each in variations]
    return tuple(each for index, each in enumerate(kept) if each and each not in kept[:index])


# Saying -------------------------------------------------------------------------------------------------------------


def show(value: Any) -> str:
    """Return a value in as few digits as tell it from any other."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def variation_name(variation: Mapping[str, Any]) -> str:
    """Return what a variation is called wherever it is written: `learning-rate=0.001 temperature=0.5`."""
    return " ".join(f"{name.replace('_', '-')}={show(value)}" for name, value in variation.items())


def member_names(config: RunConfig) -> list[str]:
    """Return the name of each member's variation; empty ones where members differ in nothing but their seeds."""
    return [variation_name(each) for each in config.variations] or [""] * len(config.seeds)


def members_by_variation(names: Sequence[str]) -> dict[str, list[int]]:
    """Return name of a variation -> indices of its members, in the order met."""
    found: dict[str, list[int]] = {}
    for member, name in enumerate(names):
        found.setdefault(name, []).append(member)
    return found


def describe_members(config: RunConfig) -> str:
    """Return how many there are of what: `10 seeds`, `30 (6 variations × 5 seeds)`, `7 of 2 variations` of a part."""
    total = len(config.seeds)
    if not config.variations:
        return _count(total, "seed")
    counts = [len(members) for members in members_by_variation(member_names(config)).values()]
    what = _count(len(counts), "variation")
    return f"{total} ({what} × {_count(counts[0], 'seed')})" if len(set(counts)) == 1 else f"{total} of {what}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# Checking -----------------------------------------------------------------------------------------------------------


def check_variations(config: RunConfig) -> None:
    """Refuse variations that cannot be members of one process.

    Raises:
        RunError: with the name of the setting, and those that can differ.
    """
    variations = config.variations
    if not variations:
        return
    if len(variations) != len(config.seeds):
        raise RunError(f"each member needs a variation: {len(config.seeds)} seeds, but {len(variations)} variations")
    names = list(variations[0])
    if any(list(each) != names for each in variations):
        raise RunError(f"all members of a run vary in the same settings: the first in {', '.join(names) or 'none'}")
    if config.stop_at_return is not None:
        raise RunError(
            "--stop-at-return waits for all members at once, and with --vary some may never get there: leave one out"
        )
    for name in names:
        _check_name(config, name)
    for variation in {variation_name(each): each for each in variations}.values():
        for name, value in variation.items():
            if name != TEMPERATURE and not isinstance(value, int | float):
                raise RunError(f"--vary {name.replace('_', '-')}: {value} is not a number")
        try:
            _check_together(config, variation)
        except ValueError as error:
            raise RunError(f"--vary {variation_name(variation)}: {error}") from error


def _check_name(config: RunConfig, name: str) -> None:
    entry, option = AGENTS[config.agent], name.replace("_", "-")
    if name in ("seed", "seeds"):
        raise RunError("--vary seeds: every variation has all the seeds that --seeds names, such as --seeds 0..9")
    able = [each.replace("_", "-") for each in config.agent_config.per_member]
    able += [TEMPERATURE] if entry.uses_estimator else []
    if option in able:
        return
    if name == TEMPERATURE:
        raise RunError(f"--vary temperature: --agent {config.agent} has no relaxed sample and takes none")
    known = {field.name.replace("_", "-") for field in fields(config.agent_config)} | {*able, *OF_THEIR_OWN}
    choose("setting", option, known)
    how = f"give them to {OF_THEIR_OWN[name]}" if name in OF_THEIR_OWN else "give one to each of several commands"
    raise RunError(
        f"--vary {option}: {option} cannot differ between members of one process; these can: {', '.join(able)}. "
        f"For a run of each value {how}"
    )


def _check_together(config: RunConfig, variation: Variation) -> None:
    settings = {name: [value] for name, value in variation.items() if name != TEMPERATURE}
    vary(config.agent_config, settings)
    replace(config.agent_config, **{name: values[0] for name, values in settings.items()})
    if TEMPERATURE in variation:
        MemberTemperatures([parse_temperature(variation[TEMPERATURE])])


# Training -----------------------------------------------------------------------------------------------------------


def agent_settings(config: RunConfig, *, device: torch.device) -> Any:
    """Return the agent's settings, `[member]` tensors where members differ."""
    columns = dict(_columns(config))
    columns.pop(TEMPERATURE, None)
    return vary(config.agent_config, columns, device=device) if columns else config.agent_config


def temperatures(config: RunConfig, *, device: torch.device) -> tuple[Schedule, Callable[[float, int], float | Tensor]]:
    """Return what the agent is told of its temperature, and the temperature over the run as `Trainer` takes it."""
    varied = dict(_columns(config)).get(TEMPERATURE)
    if varied is None:
        schedule = parse_temperature(config.temperature)
        return schedule, schedule.value
    schedules = [parse_temperature(text) for text in varied]
    return schedules[0], MemberTemperatures(schedules, device=device)


def _columns(config: RunConfig) -> Iterator[tuple[str, list[Any]]]:
    """Yield setting -> one value a member."""
    for name in config.variations[0] if config.variations else ():
        yield name, [each[name] for each in config.variations]


def alone(config: RunConfig, member: int) -> RunConfig:
    """Return the run of all seeds of a member's variation and nothing beside it."""
    if not config.variations:
        return config
    variation = config.variations[member]
    seeds = tuple(seed for seed, each in zip(config.seeds, config.variations, strict=True) if each == variation)
    own = {name: value for name, value in variation.items() if name != TEMPERATURE}
    return replace(
        config,
        seeds=seeds,
        variations=(),
        temperature=variation.get(TEMPERATURE, config.temperature),
        agent_config=replace(config.agent_config, **own),
    )
