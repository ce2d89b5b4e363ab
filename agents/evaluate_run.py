"""`train.py --evaluate RUN`: how good a finished run's policies are, and what they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import KINDS, evaluate_both
from gumbelrl.agents.experiment import Experiment, load_experiment, write_whole
from gumbelrl.agents.progress import format_return, format_spread
from gumbelrl.agents.tracking.sinks import new_run_ids, run_labels
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
        experiment = load_experiment(folder)
    except RunError as error:
        raise RunError(str(error).replace("--resume", "--evaluate", 1)) from error
    config, agent, step = experiment.config, experiment.trainer.agent, experiment.trainer.step
    print(f"{folder}: {config.agent} · {config.policy} · {config.env}, at step {step:,}", flush=True)
    print(f"playing {episodes} episodes a seed, sampled and greedy …", flush=True)
    returns = evaluate_both(agent, experiment.make_env, seeds=config.seeds, episodes=episodes)
    members = [
        {"seed": seed, "step": step, **{kind: _describe(values[index]) for kind, values in returns.items()}}
        for index, seed in enumerate(config.seeds)
    ]
    print("\n" + evaluation_table(members) + "\n", flush=True)
    results: dict[str, Any] = {"env": config.env, "episodes": episodes, "members": members}
    if video:
        results["videos"] = _record(experiment)
    write_whole(folder / "evaluation.json", json.dumps(results, indent=2) + "\n")
    print(f"saved in {folder / 'evaluation.json'}", flush=True)
    if track in ("online", "offline"):
        _track(experiment, results, mode=track)
    return 0


def _describe(values: np.ndarray) -> dict[str, float]:
    names = {"mean": values.mean(), "std": values.std(), "median": np.median(values)}
    return {name: float(value) for name, value in {**names, "min": values.min(), "max": values.max()}.items()}


def evaluation_table(members: list[dict[str, Any]]) -> str:
    """Return the returns as text, two lines a member."""
    lines = [f"{'seed':>6}  {'policy':<8}{'return':>18}{'median':>10}{'lowest':>10}{'highest':>10}"]
    for member in members:
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


def _track(experiment: Experiment, results: dict[str, Any], *, mode: str) -> None:
    """Make W&B runs of the job type `evaluate`, in the group of the training's; online, they use its checkpoint."""
    from gumbelrl.agents.tracking.wandb_sink import WandbSink

    config = experiment.config
    labels = run_labels(experiment.folder, config, new_run_ids(len(config.seeds)), job_type="evaluate")
    sink = WandbSink(experiment.folder, mode=mode, labels=labels)
    sink.use([f"model-{experiment.run_ids[0]}:step-{experiment.trainer.step}"])
    for index, member in enumerate(results["members"]):
        row = {"step": member["step"]} | {f"eval/{kind}_return": member[kind]["mean"] for kind in KINDS}
        videos = results.get("videos", {}) if index == 0 else {}
        sink.log_evaluation(index, row | {f"eval/{kind}_video": name for kind, name in videos.items()})
    sink.files("report", [experiment.folder / "evaluation.json"], {"step": experiment.trainer.step})
    sink.close(failed=False)
