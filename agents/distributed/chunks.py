"""How many members train at once: as many as memory holds, or `--chunk-size`; the others wait for their turn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.memory import describe_need, fitting_members
from gumbelrl.agents.run_config import RunConfig, check_config


def plan_parts(config: RunConfig, processes: int = 1) -> tuple[list[tuple[int, ...]], str]:
    """Return the parts that a run's members train in, and why, in a line, if there are more parts than processes.

    Parts are neighbouring members, given by their seeds; a process trains every `processes`-th of them.

    Raises:
        RunError: the run cannot be, not one member fits, or there are fewer members than processes.
    """
    check_config(config)
    members = len(config.seeds)
    each = math.ceil(members / processes)
    at_once, why = _members_at_once(config, each)
    rounds = math.ceil(each / at_once)
    parts = split_seeds(config.seeds, max(processes, min(members, processes * rounds)))
    if rounds == 1:
        return parts, ""
    on_each = f" on each of {processes} processes" if processes > 1 else ""
    return parts, f"{why}: {len(parts)} chunks of at most {len(parts[0])} members, one after another{on_each}"


def _members_at_once(config: RunConfig, wanted: int) -> tuple[int, str]:
    """Return how many members of `wanted` train at once, and why not all."""
    if config.chunk_size is not None:
        return config.chunk_size, f"{len(config.seeds)} members, and at most {config.chunk_size} at a time"
    if wanted == 1:
        return 1, ""
    # Of one member, since the whole population might not even be made.
    one = Experiment(
        replace(config, seeds=config.seeds[:1], variations=config.variations[:1], compile="off"), in_folder=False
    )
    fitting = fitting_members(one.needs, device=one.device, limit=config.memory_limit)
    if fitting is None or fitting >= wanted:
        return wanted, ""
    return max(fitting, 1), describe_need(one.needs, wanted, device=one.device, limit=config.memory_limit)


def bounds(parts: Sequence[Sequence[int]]) -> list[slice]:
    """Return which members are in each part."""
    ends = [0, *itertools.accumulate(len(part) for part in parts)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def split_seeds(seeds: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Return `size` runs of neighbouring seeds, as equal as can be, the longer first.

    Raises:
        RunError: there are fewer seeds than parts.
    """
    if len(seeds) < size:
        raise RunError(
            f"{size} processes share the seeds, and {len(seeds)} cannot be shared by so many: name more, such as "
            f"--seeds 0..{size - 1}, or start fewer processes"
        )
    least, more = divmod(len(seeds), size)
    ends = [least * part + min(part, more) for part in range(size + 1)]
    return [tuple(seeds[start:end]) for start, end in itertools.pairwise(ends)]
