"""The sinks of a run, from its configuration."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import gumbelrl
from gumbelrl.agents.tracking.base import JsonLines, Sink, Sinks, read_history
from gumbelrl.agents.variations import alone, member_names

if TYPE_CHECKING:
    from gumbelrl.agents.run_config import RunConfig
    from gumbelrl.agents.tracking.wandb_sink import RunLabel


LONGEST_TAG, LONGEST_NAME = 64, 128  # that W&B takes


def open_sinks(
    folder: Path, config: RunConfig, run_ids: Sequence[str], *, resume_step: int | None, finished: bool
) -> Sinks:
    """Return the JSON lines and what was asked for beside them.

    Args:
        folder: the run's.
        run_ids: W&B's, one a member.
        resume_step: the step of the checkpoint that a resumed run starts from.
        finished: that checkpoint is the end's.
    """
    others: list[Sink] = []
    variations = member_names(config) if config.variations else []
    if config.tensorboard:  # first, since it may be missing
        from gumbelrl.agents.tracking.tensorboard import TensorBoardSink

        others.append(TensorBoardSink(folder, config.seeds, variations=variations, resume_step=resume_step))
    lines = JsonLines(folder, config.seeds, variations=variations, resume_step=resume_step, finished=finished)
    if config.track != "off":
        from gumbelrl.agents.tracking.wandb_sink import WandbSink

        history = [] if resume_step is None else read_history(folder, config.seeds, variations)
        labels = run_labels(folder, config, run_ids)
        others.append(WandbSink(folder, mode=config.track, labels=labels, history=history))
    return Sinks(lines, *others)


def run_labels(folder: Path, config: RunConfig, run_ids: Sequence[str], *, job_type: str = "train") -> list[RunLabel]:
    """Return what W&B is told of each member, its own settings as any run's: its group folds seeds together."""
    from gumbelrl.agents.tracking.wandb_sink import RunLabel

    base = f"{config.env}-{config.agent}-{config.policy}"
    versions = {"gumbelrl": gumbelrl.__version__, "torch": torch.__version__}
    described = [config.env, config.agent, config.policy, config.critic]
    suffix = "" if job_type == "train" else f"-{job_type}"
    variations = member_names(config)
    return [
        RunLabel(
            project=config.project,
            group=_with_variation(f"{base}-{folder.resolve().name}", variations[member]),
            job_type=job_type,
            name=_with_variation(base, variations[member], f"-seed{seed}{suffix}"),
            run_id=run_id,
            config={**alone(config, member).to_json(), **versions, "seed": seed},
            tags=list(dict.fromkeys([*described, *config.tags, *set_tags(folder)])),
            notes=config.notes,
        )
        for member, (seed, run_id) in enumerate(zip(config.seeds, run_ids, strict=True))
    ]


def _with_variation(base: str, variation: str, suffix: str = "") -> str:
    """Return a name that says the variation: by a hash where W&B would not take all of it."""
    if not variation:
        return f"{base}{suffix}"
    whole = f"{base}-{variation.replace(' ', '-')}{suffix}"
    short = uuid.uuid5(uuid.NAMESPACE_OID, variation).hex[:8]
    return whole if len(whole) <= LONGEST_NAME else f"{base}-variation-{short}{suffix}"


def set_tags(folder: Path) -> list[str]:
    """Return the tag of the set that a run, or a run of which it is a part, belongs to."""
    parents = list(folder.resolve().parents)
    return [tag for parent in parents[:3:2] for tag in set_tag(parent)][:1]


def set_tag(folder: Path) -> list[str]:
    """Return the tag by which W&B finds the runs of a set and their comparison; none where it is no set's folder."""
    from gumbelrl.agents.compare.run_set import is_set

    return [folder.resolve().name[:LONGEST_TAG]] if is_set(folder) else []


def new_run_ids(count: int) -> list[str]:
    """Return an id for each member's W&B run; the first is the one that `wandb agent` has given out, if it has."""
    ids = [uuid.uuid4().hex[:8] for _ in range(count)]
    if os.environ.get("WANDB_SWEEP_ID") and (given := os.environ.get("WANDB_RUN_ID")):
        ids[0] = given
    return ids
