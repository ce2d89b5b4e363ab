"""`train.py --evaluate RUN`: how good a finished run's policies are, and what they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.distributed.chunks import bounds, plan_parts
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import KINDS, evaluate_both
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.progress import format_return, format_spread
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.run_folder import read_config, write_whole
from gumbelrl.agents.tracking.base import member_entry
from gumbelrl.agents.tracking.sinks import new_run_ids, run_labels
from gumbelrl.agents.variations import member_names
from gumbelrl.agents.videos import record_video


def evaluate_run(folder: Path, *, episodes: int, video: bool, track: str) -> int:
    """Play episodes with the last checkpoint, print a table, and keep `evaluation.json` and videos in the folder.

    Args:
        video: record the first member, sampled and greedy.
        track: `online` or `offline` make a W&B run of its own of each member; else none is made.

    Raises:
        RunError: there is no run, its checkpoint is damaged, or its environment cannot be drawn.
    """
    if episodes < 1:
        raise RunError(f"--episodes must be at least 1, got {episodes}")
    try:
        config = read_config(folder)
        parts = bounds(plan_parts(config)[0])
        experiment = load_experiment(folder, members=parts[0] if len(parts) > 1 else None)
    except RunError as error:
        raise RunError(str(error).replace("--resume", "--evaluate", 1)) from error
    step, run_ids = experiment.trainer.step, experiment.run_ids
    print(f"{folder}: {config.agent} · {config.policy} · {config.env}, at step {step:,}", flush=True)
    at_a_time = f", {len(experiment.config.seeds)} members at a time" if len(parts) > 1 else ""
    print(f"playing {episodes} episodes a seed, sampled and greedy{at_a_time} …", flush=True)
    members, videos = _play(experiment, episodes), _record(experiment) if video else {}
    for part in parts[1:]:
        del experiment  # before the next one is made
        experiment = load_experiment(folder, members=part)
        members += _play(experiment, episodes)
    print("\n" + evaluation_table(members) + "\n", flush=True)
    results: dict[str, Any] = {"env": config.env, "episodes": episodes, "members": members}
    if video:
        results["videos"] = videos
    write_whole(folder / "evaluation.json", json.dumps(results, indent=2) + "\n")
    print(f"saved in {folder / 'evaluation.json'}", flush=True)
    if track in ("online", "offline"):
        _track(config, folder, results, mode=track, model=f"model-{run_ids[0]}:step-{step}")
    return 0


def _play(experiment: Experiment, episodes: int) -> list[dict[str, Any]]:
    """Return the returns of each member."""
    config, step = experiment.config, experiment.trainer.step
    returns = evaluate_both(experiment.trainer.agent, experiment.make_env, seeds=config.seeds, episodes=episodes)
    return [
        {**member_entry(seed, name), "step": step, **{kind: _describe(each[at]) for kind, each in returns.items()}}
        for at, (seed, name) in enumerate(zip(config.seeds, member_names(config), strict=True))
    ]


def _describe(values: np.ndarray) -> dict[str, float]:
    names = {"mean": values.mean(), "std": values.std(), "median": np.median(values)}
    return {name: float(value) for name, value in {**names, "min": values.min(), "max": values.max()}.items()}


def evaluation_table(members: list[dict[str, Any]]) -> str:
    """Return the returns as text, two lines a member, below a line that names their variation."""
    lines = [f"{'seed':>6}  {'policy':<8}{'return':>18}{'median':>10}{'lowest':>10}{'highest':>10}"]
    shown = ""
    for member in members:
        if member.get("variation", "") != shown:
            shown = member["variation"]
            lines.append(shown)
        for kind in KINDS:
            found = member[kind]
            mean = format_spread(found["mean"], found["std"])
            numbers = "".join(f"{format_return(found[name]):>10}" for name in ("median", "min", "max"))
            lines.append(f"{member['seed']:>6}  {kind:<8}{mean:>18}{numbers}")
    return "\n".join(lines)


def _record(experiment: Experiment) -> dict[str, str]:
    """Record the first member, sampled and greedy; return the files by kind, relative to the run's folder."""
    config, made = experiment.config, {}
    for kind in KINDS:
        print(f"recording a video of seed {config.seeds[0]}, {kind} …", flush=True)
        path = experiment.folder / "videos" / f"evaluation-{kind}-seed{config.seeds[0]}"
        greedy, native, device = kind == "greedy", config.native, experiment.device
        agent = experiment.trainer.agent
        file = record_video(path, agent, config.env, seeds=config.seeds, greedy=greedy, native=native, device=device)
        made[kind] = str(file.relative_to(experiment.folder))
        print(f"  {file}", flush=True)
    return made


def _track(config: RunConfig, folder: Path, results: dict[str, Any], *, mode: str, model: str) -> None:
    """Make W&B runs of the job type `evaluate`, in the group of the training's; online, they use its checkpoint."""
    from gumbelrl.agents.tracking.wandb_sink import WandbSink

    labels = run_labels(folder, config, new_run_ids(len(config.seeds)), job_type="evaluate")
    sink = WandbSink(folder, mode=mode, labels=labels)
    sink.use([model])
    for index, member in enumerate(results["members"]):
        row = {"step": member["step"]} | {f"eval/{kind}_return": member[kind]["mean"] for kind in KINDS}
        videos = results.get("videos", {}) if index == 0 else {}
        sink.log_evaluation(index, row | {f"eval/{kind}_video": name for kind, name in videos.items()})
    sink.files("report", [folder / "evaluation.json"], {"step": results["members"][0]["step"]})
    sink.close(failed=False)
