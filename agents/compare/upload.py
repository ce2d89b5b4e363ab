"""A comparison on W&B: a run of the job type `compare` that holds the report and is made from the runs' own reports."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gumbelrl
from gumbelrl.agents.checkpoint import CheckpointError, CheckpointStore
from gumbelrl.agents.compare.comparison import Comparison
from gumbelrl.agents.compare.conclusions import conclude
from gumbelrl.agents.compare.runs import Run
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.tracking.sinks import set_tag
from gumbelrl.agents.tracking.wandb_sink import RunLabel, WandbSink


def upload_report(comparison: Comparison, folder: Path, files: Sequence[Path], configs: Sequence[RunConfig]) -> None:
    """Give a comparison to W&B, offline or online as its runs were; nothing where none was tracked.

    Args:
        folder: of the set of runs; `wandb/` in it takes what is kept here.
        files: the report.
        configs: of the runs of the set.
    """
    tracked = [config for config in configs if config.track != "off"]
    reports = {name: run for run in comparison.runs if (name := report_artifact(run)) is not None}
    if not tracked or not reports:
        return
    print("handing the report to W&B …", flush=True)
    first, envs = tracked[0], [part.env for part in comparison.environments]
    label = RunLabel(
        project=first.project,
        group=folder.resolve().name,
        job_type="compare",
        name=f"{envs[0] if len(envs) == 1 else f'{len(envs)}-environments'}-comparison",
        # The same whenever these runs are compared: another comparison is another version of the artifact.
        run_id=uuid.uuid5(uuid.NAMESPACE_OID, next(iter(reports))).hex[:8],
        config={"measure": comparison.measure, "runs": list(reports), "gumbelrl": gumbelrl.__version__},
        tags=list(dict.fromkeys([*envs, *first.tags, *set_tag(folder)])),
        notes="\n\n".join([*([first.notes] if first.notes else []), *conclude(comparison)]),
    )
    sink = WandbSink(folder, mode=first.track, labels=[label])
    sink.use(list(reports))
    sink.summarise(0, final_returns(comparison))
    sink.files("comparison", files, {"made_from": list(reports)})  # so that it is said offline as well
    sink.close(failed=False)


def report_artifact(run: Run) -> str | None:
    """Return the artifact that holds the results of a run; None where it was not tracked, or did not finish."""
    if run.status != "finished" or run.config.get("track") == "off":
        return None
    store = CheckpointStore(run.folder / "checkpoints")
    try:
        step = store.steps()[-1]
        return f"report-{store.metadata(step)['run_ids'][0]}:step-{step}"
    except (CheckpointError, OSError, LookupError):  # removed since: what is left is worth having
        return None


def final_returns(comparison: Comparison) -> dict[str, Any]:
    """Return environment -> variant -> interquartile mean of the seeds' final returns, and its interval."""
    return {
        part.env: {
            each.label: {"interquartile_mean": found.value, "low": found.low, "high": found.high}
            for each in part.summaries
            for found in (each.final[comparison.measure],)
        }
        for part in comparison.environments
    }
