"""What came of a run: `results.json`, and its summary where members differ in settings."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gumbelrl.agents.evaluation import KINDS, RETURNS
from gumbelrl.agents.progress import format_return, format_spread
from gumbelrl.agents.variations import members_by_variation, variation_name

if TYPE_CHECKING:
    from gumbelrl.agents.run_config import RunConfig


def member_results(
    config: RunConfig, rows: Sequence[Mapping[str, Any]], solved_at: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Return an entry for each member: whose it is, and the numbers of the last evaluation.

    Args:
        rows: of the evaluation, one a member.
        solved_at: the step at which each member solved its environment, None for never.
    """
    members = []
    for index, (seed, row) in enumerate(zip(config.seeds, rows, strict=True)):
        entry: dict[str, Any] = {"seed": seed}
        if config.variations:
            settings = config.variations[index]
            entry |= {"variation": variation_name(settings), "settings": settings}
        entry |= {"steps": row["step"], "solved_at": solved_at[index]}
        members.append(entry | {name: value for name, value in row.items() if isinstance(value, float)})
    return members


def seed_means(members: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return, for each member, the means of its returns over the seeds that share its settings."""
    means: list[dict[str, float]] = [{} for _ in members]
    for own in members_by_variation([member.get("variation", "") for member in members]).values():
        mean = {f"{name}_mean": float(np.mean([members[each][name] for each in own])) for name in RETURNS}
        for each in own:
            means[each] = mean
    return means


def results_of(config: RunConfig, members: Sequence[Mapping[str, Any]], *, seconds: float) -> dict[str, Any]:
    """Return what `results.json` holds; `seconds` is the wall time of training."""
    return {
        "env": config.env,
        "policy": config.policy,
        "agent": config.agent,
        "critic": config.critic,
        "evaluation_episodes": config.evaluation_episodes,
        "train_seconds": round(seconds, 3),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "members": list(members),
    }


@dataclass(frozen=True)
class VariationResult:
    """What came of a variation.

    Attributes:
        settings: what its members have of their own.
        returns: `sampled` and `greedy` -> mean and standard deviation over seeds.
        num_solved: seeds that solved the environment.
    """

    name: str
    settings: Mapping[str, Any]
    num_seeds: int
    returns: Mapping[str, tuple[float, float]]
    num_solved: int

    def spread(self, kind: str) -> str:
        """Return `mean ± deviation` over seeds, or the return of a single one."""
        mean, deviation = self.returns[kind]
        return format_spread(mean, deviation) if self.num_seeds > 1 else format_return(mean)


def variation_results(members: Sequence[Mapping[str, Any]]) -> list[VariationResult]:
    """Return the variations of a run's members, the best by the mean sampled return first; none of plain members."""
    if not all("variation" in member for member in members):
        return []
    found = []
    for name, own in members_by_variation([member["variation"] for member in members]).items():
        entries = [members[each] for each in own]
        values = {kind: np.array([entry[f"eval/{kind}_return"] for entry in entries]) for kind in KINDS}
        found.append(
            VariationResult(
                name=name,
                settings=entries[0]["settings"],
                num_seeds=len(entries),
                returns={kind: (float(each.mean()), float(each.std())) for kind, each in values.items()},
                num_solved=sum(entry["solved_at"] is not None for entry in entries),
            )
        )
    return sorted(found, key=lambda each: -each.returns["sampled"][0])
