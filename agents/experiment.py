"""A run from its settings to its folder: check, build, train, evaluate, save."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gumbelrl
from gumbelrl.agents.checkpoint import CheckpointStore, flatten_state, unflatten_state
from gumbelrl.agents.compare.runs import FAILURE
from gumbelrl.agents.compilation import compiles
from gumbelrl.agents.episodes import WINDOW
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import RETURNS, evaluate_both, summarise_returns
from gumbelrl.agents.interruption import stop_on_interrupt
from gumbelrl.agents.memory import check_memory, memory_of
from gumbelrl.agents.model_card import model_card
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.progress import Progress, format_seconds, format_spread
from gumbelrl.agents.registry import AGENTS, resolve_policy
from gumbelrl.agents.run_config import RunConfig, check_config
from gumbelrl.agents.tracking.base import Sinks, action_histograms, read_metrics
from gumbelrl.agents.tracking.sinks import new_run_ids, open_sinks
from gumbelrl.agents.training import Trainer
from gumbelrl.envs import BatchedEnv, make
from gumbelrl.policies import ActionLayout, parse_temperature


class Experiment:
    """One run: its environments, agent, loop, folder and sinks."""

    def __init__(self, config: RunConfig, *, resume: bool = False) -> None:
        check_config(config)
        self.config = config
        torch.set_num_threads(config.threads)
        self.device = torch.device(
            "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu")
        )
        env = self.make_env(len(config.seeds) * config.agent_config.num_envs)
        try:
            self.layout = ActionLayout.from_space(env.single_action_space).to(self.device)
        except (TypeError, ValueError) as error:
            raise RunError(f"--env {config.env}: {error}") from error
        self.threshold = reward_threshold(config.env)
        self.folder = config.output or default_folder(config)
        self.run_ids = new_run_ids(len(config.seeds))
        self.schedule = parse_temperature(config.temperature)
        estimator, critic = resolve_policy(config.policy, config.critic, agent=config.agent)
        entry = AGENTS[config.agent]
        agent = entry.agent(
            config.agent_config,
            layout=self.layout,
            num_features=num_features(env.single_observation_space),
            seeds=config.seeds,
            estimator=estimator,
            critic=critic,
            temperature=self.schedule,
            observation_space=env.single_observation_space,
            device=self.device,
        )
        self.compiled = compiles(config.compile, agent, total_steps=config.total_steps)
        self.trainer = Trainer(
            agent, env, seeds=config.seeds, total_steps=config.total_steps, temperature=self.schedule.value
        )
        self.memory = check_memory(memory_of(self.trainer), len(config.seeds), device=self.device)
        self.store = CheckpointStore(self.folder / "checkpoints")
        self.solved_at: list[int | None] = [None] * len(config.seeds)
        self.seconds = 0.0
        # The steps at which the next row and the next evaluation are due.
        self.due = {"log": 0, "evaluation": config.evaluation_interval or config.total_steps}
        self.sinks: Sinks
        if resume:
            self._load()
        else:
            claim_folder(self.folder)
            text = json.dumps(
                {**config.to_json(), "gumbelrl": gumbelrl.__version__, "torch": torch.__version__}, indent=2
            )
            (self.folder / "config.json").write_text(text + "\n", encoding="utf-8")

    def make_env(self, num_envs: int) -> BatchedEnv:
        try:
            return make(self.config.env, num_envs=num_envs, device=self.device, native=self.config.native)
        except ValueError as error:
            raise RunError(f"--env: {error}") from error

    # Running --------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train, evaluate and save; return what `results.json` holds."""
        self._open_sinks()
        print(self.memory, flush=True)
        if self.compiled:
            print("the optimiser step is compiled by its first call, which takes about 20 s", flush=True)
        (self.folder / FAILURE).unlink(missing_ok=True)
        failed = True
        try:
            with stop_on_interrupt() as stop:
                self._train(stop)
            if stop:
                self.save()
                failed = False
                raise KeyboardInterrupt
            results = self._evaluate()
            failed = False
        except RunError as error:
            note_failure(self.folder, error)
            raise RunError(f"{error}. {self._last_good()}") from error
        except Exception as error:
            note_failure(self.folder, error)
            raise
        finally:
            self.sinks.close(failed=failed)
        return results

    def _train(self, stop: list[int]) -> None:
        config, trainer = self.config, self.trainer
        next_save = trainer.step + config.checkpoint_interval
        start = time.perf_counter() - self.seconds
        with Progress(config.total_steps, num_members=len(config.seeds), start_step=trainer.step) as progress:
            metrics: dict[str, Tensor] = {}
            while not trainer.finished and not stop:
                metrics |= trainer.iterate()
                if trainer.step >= self.due["log"] or trainer.finished:
                    self.due["log"] = trainer.step + config.log_interval
                    self.seconds = time.perf_counter() - start
                    progress.update(trainer.step, self._log(metrics))
                    metrics = {}
                    self._stop_at_return()
                if trainer.step >= self.due["evaluation"] and not trainer.finished:
                    self.due["evaluation"] = trainer.step + config.evaluation_interval
                    before = time.perf_counter()
                    self._evaluate_members()
                    start += time.perf_counter() - before  # that was no training
                    self.mark = (time.perf_counter(), trainer.step)
                if trainer.step >= next_save or trainer.finished:
                    next_save = trainer.step + config.checkpoint_interval
                    self.save()
        if trainer.finished and trainer.step < config.total_steps:
            what = f"the last {WINDOW} training episodes of every seed reached {config.stop_at_return:g}"
            print(f"{what} after {trainer.step:,} steps, in {self.seconds:.1f} s of training", flush=True)

    def _log(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Write one row a member; return the means over members."""
        trainer, config = self.trainer, self.config
        arrays = {name: value.detach().cpu().numpy() for name, value in metrics.items()}
        histograms = action_histograms(arrays.pop("policy/probs"))
        rate = self._rate()
        rows = []
        for member in range(len(config.seeds)):
            row: dict[str, float] = {"step": trainer.step}
            row |= {name: float(value[member]) for name, value in arrays.items()}
            row |= {"time/seconds": round(self.seconds, 3), "time/steps_per_second": round(rate, 1)}
            if self.threshold is not None and self.solved_at[member] is None:
                enough = row["train/episodes"] >= 100 and row["train/return"] >= self.threshold
                self.solved_at[member] = trainer.step if enough else None
            self.sinks.log(member, row, histograms[member])
            rows.append(row)
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def _stop_at_return(self) -> None:
        """End the training here once the last episodes of every member reached the return that was asked for."""
        trainer, goal = self.trainer, self.config.stop_at_return
        if goal is None:
            return
        returns, _ = trainer.statistics.means()
        if bool(((returns >= goal) & (trainer.statistics.count >= WINDOW)).all()):
            trainer.total_steps = trainer.step

    def _rate(self) -> float:
        """Return the environment steps a second, all members together, since the last row."""
        now = (time.perf_counter(), self.trainer.step)
        seconds, steps = (new - old for new, old in zip(now, self.mark, strict=True))
        self.mark = now
        return steps * len(self.config.seeds) / max(seconds, 1e-9)

    def _evaluate_members(self, pictures: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Play whole episodes with every member, write a row of each, and return the rows.

        Args:
            pictures: name -> file in the folder, of the first member.
        """
        returns = evaluate_both(
            self.trainer.agent, self.make_env, seeds=self.config.seeds, episodes=self.config.evaluation_episodes
        )
        rows: list[dict[str, Any]] = [{"step": self.trainer.step, **row} for row in summarise_returns(returns)]
        rows[0] |= {**(pictures or {}), **(self._record() if self.config.video else {})}
        for member, row in enumerate(rows):
            self.sinks.log_evaluation(member, row)
        return rows

    def _record(self) -> dict[str, str]:
        """Record a video of the first member; where none can be made, that is a warning."""
        from gumbelrl.agents.videos import VideoError, record_video

        config = self.config
        if self.trainer.finished:
            print(f"recording a video of seed {config.seeds[0]} …", flush=True)
        path = self.folder / "videos" / f"step-{self.trainer.step:012d}-seed{config.seeds[0]}"
        try:
            made = record_video(
                path, self.trainer.agent, config.env, seeds=config.seeds, native=config.native, device=self.device
            )
        except VideoError as error:
            warnings.warn(f"no video: {error}")
            return {}
        return {"eval/video": str(made.relative_to(self.folder))}

    def _evaluate(self) -> dict[str, Any]:
        config = self.config
        print(f"evaluating {config.evaluation_episodes} episodes a seed, sampled and greedy …", flush=True)
        self._plot()
        curve = "learning_curve.png"
        rows = self._evaluate_members({"eval/learning_curve": curve} if (self.folder / curve).exists() else None)
        means = {f"{name}_mean": float(np.mean([row[name] for row in rows])) for name in RETURNS}
        members = []
        for index, (seed, row) in enumerate(zip(config.seeds, rows, strict=True)):
            returns = {name: value for name, value in row.items() if isinstance(value, float)}
            entry = {"seed": seed, "steps": self.trainer.step, "solved_at": self.solved_at[index], **returns}
            members.append(entry)
            self.sinks.summarise(index, {**entry, **means})
        results = {
            "env": config.env,
            "policy": config.policy,
            "agent": config.agent,
            "critic": config.critic,
            "evaluation_episodes": config.evaluation_episodes,
            "train_seconds": round(self.seconds, 3),
            "threads": torch.get_num_threads(),
            "machine": platform.processor() or platform.machine(),
            "members": members,
        }
        write_whole(self.folder / "results.json", json.dumps(results, indent=2) + "\n")
        write_whole(self.folder / "README.md", model_card(self.folder, config.to_json(), results))
        self._hand_over_files()
        return results

    def _hand_over_files(self) -> None:
        """Give the configuration, the last checkpoint and what reports on the run to those who keep files."""
        step = self.trainer.step
        self.sinks.files("config", [self.folder / "config.json"], {})
        self.sinks.files("model", [self.store.folder(self.store.steps()[-1])], {"step": step})
        names = ("results.json", "learning_curve.png", "README.md")
        reports = [path for name in names if (path := self.folder / name).exists()]
        self.sinks.files("report", reports, {"step": step})

    def _plot(self) -> None:
        from gumbelrl.agents.plots import plot_learning_curve

        config = self.config
        self.sinks.flush()
        title = f"{config.env} · {config.agent} · {config.policy} ({config.critic} critic)"
        metrics = read_metrics(self.folder / "metrics.jsonl")
        plot_learning_curve(self.folder / "learning_curve.png", metrics, title=title, threshold=self.threshold)

    # Saving ---------------------------------------------------------------------------------------------------------

    def save(self) -> Path:
        self.sinks.flush()
        tensors, state = flatten_state(self.trainer.state_dict())
        config = self.config.to_json()
        metadata = {
            "state": state,
            "run": {name: config[name] for name in ("env", "policy", "agent", "critic", "seeds", "agent_config")},
            "run_ids": self.run_ids,
            "solved_at": self.solved_at,
            "seconds": self.seconds,
            "due": self.due,
        }
        return self.store.save(self.trainer.step, tensors, metadata)

    def _load(self) -> None:
        checkpoint = self.store.latest(device=self.device)
        config, saved = self.config.to_json(), checkpoint.metadata["run"]
        for name, value in saved.items():
            if json.loads(json.dumps(config[name])) != value:
                raise RunError(
                    f"the checkpoint in {self.folder} is of {name} = {value}, but config.json there says {config[name]}"
                )
        self.trainer.load_state_dict(unflatten_state(checkpoint.tensors, checkpoint.metadata["state"]))
        self.run_ids = checkpoint.metadata["run_ids"]
        self.solved_at = checkpoint.metadata["solved_at"]
        self.seconds = checkpoint.metadata["seconds"]
        self.due |= checkpoint.metadata.get("due", {"log": self.trainer.step})
        self._stop_at_return()

    def _last_good(self) -> str:
        try:
            self.store.latest()
        except ValueError:
            return "No checkpoint had been written yet"
        return (
            f"The last good checkpoint is in {self.store.root}; `python train.py --resume {self.folder}` starts from it"
        )

    def _open_sinks(self) -> None:
        self.mark = (time.perf_counter(), self.trainer.step)
        self.sinks = open_sinks(
            self.folder,
            self.config,
            self.run_ids,
            resume_step=self.trainer.step or None,
            finished=self.trainer.finished,
        )


def reward_threshold(env: str) -> float | None:
    """Return the return at which gymnasium calls `env` solved, if it says so."""
    import gymnasium

    spec = gymnasium.registry.get(env)
    return None if spec is None else spec.reward_threshold


def default_folder(config: RunConfig) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.env.replace('/', '-')}_{config.agent}_{config.policy}_{stamp}"


def claim_folder(folder: Path) -> None:
    """Make the run's folder; one that holds a run is left alone.

    Raises:
        RunError: the folder holds another run, or something that is not a folder is in the way.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "another run" if (folder / "config.json").exists() else "other files"
        raise RunError(
            f"the output folder {folder} holds {what}: name another with --output, "
            f"or go on with that run by --resume {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def note_failure(folder: Path, error: Exception) -> None:
    """Leave a word about what stopped a run, for those who compare runs; `error` is what matters, not this note."""
    with suppress(OSError):
        what = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        write_whole(folder / FAILURE, json.dumps({"error": what}) + "\n")


def load_experiment(folder: Path) -> Experiment:
    """Return the run in `folder` as it was at its last checkpoint.

    Raises:
        RunError: there is no run there, or its checkpoint is damaged, foreign or newer; nothing is overwritten.
    """
    path = folder / "config.json"
    try:
        config = RunConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"--resume {folder}: there is no run there (no {path})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"--resume {folder}: {path} is not a run's configuration ({error})") from error
    try:
        return Experiment(replace(config, output=folder), resume=True)
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"--resume {folder}: {error}") from error


def open_experiment(config: RunConfig) -> Experiment:
    """Return a run whose folder is named at its last checkpoint, or at its beginning where it has none."""
    folder = config.output
    assert folder is not None
    if CheckpointStore(folder / "checkpoints").steps():
        experiment = load_experiment(folder)
        print(f"resuming at step {experiment.trainer.step:,}", flush=True)
        return experiment
    if folder.exists():  # stopped before its first checkpoint: it holds nothing to go on from
        shutil.rmtree(folder)
    return Experiment(config)


def report(experiment: Experiment, results: Mapping[str, Any], *, seconds: float) -> None:
    """Print what a person wants to know at the end of a run."""
    folder, members = experiment.folder, results["members"]
    print()
    print(f"{'seed':>6} {'sampled return':>18} {'greedy return':>18} {'solved at step':>16}")
    for member in members:
        solved = f"{member['solved_at']:,}" if member["solved_at"] else "–"
        cells = [
            format_spread(member[f"eval/{kind}_return"], member[f"eval/{kind}_return_std"])
            for kind in ("sampled", "greedy")
        ]
        print(f"{member['seed']:>6} {cells[0]:>18} {cells[1]:>18} {solved:>16}")
    print()
    print(
        f"trained in {results['train_seconds']:.1f} s; this took {format_seconds(seconds)} in all; saved in {folder}/"
    )
    print("  README.md  config.json  metrics.jsonl  results.json  learning_curve.png  checkpoints/")
    if experiment.config.track != "off":
        print(f"look at the curves:  wandb leet {folder / 'wandb'}")
    sys.stdout.flush()
