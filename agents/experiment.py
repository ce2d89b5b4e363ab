"""A run from its settings to its folder: check, build, train, evaluate, save."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gumbelrl
from gumbelrl.agents.checkpoint import CheckpointStore, flatten_state, unflatten_state
from gumbelrl.agents.compare.runs import FAILURE
from gumbelrl.agents.compilation import compiles
from gumbelrl.agents.cuda_graphs import captures
from gumbelrl.agents.distributed.group import ALONE, GoneError, Group
from gumbelrl.agents.distributed.member_axes import latest_members
from gumbelrl.agents.distributed.shares import mean_metrics, own_settings, own_state, whole_state
from gumbelrl.agents.episodes import WINDOW
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import evaluate_both, summarise_returns
from gumbelrl.agents.interruption import stop_on_interrupt
from gumbelrl.agents.memory import check_memory, memory_of
from gumbelrl.agents.model_card import model_card
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.precision import set_precision
from gumbelrl.agents.progress import Progress
from gumbelrl.agents.registry import AGENTS, resolve_policy
from gumbelrl.agents.results import member_results, results_of, seed_means
from gumbelrl.agents.run_config import RunConfig, check_config
from gumbelrl.agents.run_folder import claim_folder, default_folder, note_failure, read_config, write_whole
from gumbelrl.agents.tracking.base import Sinks, action_histograms
from gumbelrl.agents.tracking.sinks import new_run_ids, open_sinks
from gumbelrl.agents.training import Trainer
from gumbelrl.agents.variations import (
    agent_settings,
    describe_members,
    member_names,
    members_by_variation,
    temperatures,
)
from gumbelrl.envs import BatchedEnv, make
from gumbelrl.policies import ActionLayout

DECIDED = ("env", "policy", "agent", "critic", "seeds", "variations", "agent_config")
"""What of a configuration a checkpoint is of."""


class Experiment:
    """One run: its environments, agent, loop, folder and sinks.

    Args:
        resume: go on from the last checkpoint in the run's folder.
        group: the processes that have the environments of every member between them. All of them make this object; the
            first alone writes, and makes the folder once all are ready.
        in_folder: make the folder; where it is only to be seen what a run is, none is made.
        members: of the run in the folder only these, to be played.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        resume: bool = False,
        group: Group = ALONE,
        in_folder: bool = True,
        members: slice | None = None,
    ) -> None:
        check_config(config)
        self.members = members
        if members is not None:
            config = replace(config, seeds=config.seeds[members], variations=config.variations[members])
        self.config, self.group, self.writes = config, group, group.rank == 0
        torch.set_num_threads(config.threads)
        self.device = torch.device(
            "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu")
        )
        settings = own_settings(agent_settings(config, device=self.device), group.size)
        env = self.make_env(len(config.seeds) * settings.num_envs)
        try:
            self.layout = ActionLayout.from_space(env.single_action_space).to(self.device)
        except (TypeError, ValueError) as error:
            raise RunError(f"--env {config.env}: {error}") from error
        self.threshold = reward_threshold(config.env)
        self.folder = config.output or default_folder(config)
        self.run_ids = new_run_ids(len(config.seeds))
        schedule, temperature = temperatures(config, device=self.device)
        estimator, critic = resolve_policy(config.policy, config.critic, agent=config.agent)
        entry = AGENTS[config.agent]
        agent = entry.agent(
            settings,
            layout=self.layout,
            num_features=num_features(env.single_observation_space),
            seeds=config.seeds,
            estimator=estimator,
            critic=critic,
            temperature=schedule,
            observation_space=env.single_observation_space,
            device=self.device,
            group=group,
        )
        set_precision(config.precision, agent, self.device)
        self.trainer = Trainer(
            agent, env, seeds=config.seeds, total_steps=config.total_steps, temperature=temperature, group=group
        )
        self.compiled = compiles(config.compile, self.trainer)
        self.captured = captures(config.compile, self.trainer)
        self.needs = memory_of(self.trainer)
        self.memory = check_memory(self.needs, len(config.seeds), device=self.device, limit=config.memory_limit)
        self.store = CheckpointStore(self.folder / "checkpoints")
        self.solved_at: list[int | None] = [None] * len(config.seeds)
        self.seconds = 0.0
        # The steps at which the next row and the next evaluation are due.
        self.due = {"log": 0, "evaluation": config.evaluation_interval or config.total_steps}
        self.sinks: Sinks
        if resume:
            self._load()
        elif group.size == 1 and in_folder:
            self.make_folder()

    def make_folder(self) -> None:
        """Make the run's folder, with its configuration.

        Raises:
            RunError: the folder holds something already.
        """
        claim_folder(self.folder)
        described = {**self.config.to_json(), "gumbelrl": gumbelrl.__version__, "torch": torch.__version__}
        (self.folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    def make_env(self, num_envs: int) -> BatchedEnv:
        try:
            return make(self.config.env, num_envs=num_envs, device=self.device, native=self.config.native)
        except ValueError as error:
            raise RunError(f"--env: {error}") from error

    # Running --------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train, evaluate and save; return what `results.json` holds, on the first process."""
        self._open_sinks()
        if self.config.variations:
            print(f"members: {describe_members(self.config)}", flush=True)
        print(self.memory, flush=True)
        if self.compiled:
            print("the first iteration compiles: up to a minute, seconds if this was compiled before", flush=True)
        if self.captured is not None:
            print("iterations are recorded as CUDA graphs once the first few are done", flush=True)
        if self.writes:
            (self.folder / FAILURE).unlink(missing_ok=True)
        failed = True
        try:
            with stop_on_interrupt() as stop:
                self._train(stop)
                stopped = self.group.any(bool(stop))
            if stopped:
                self.save()
                failed = False
                raise KeyboardInterrupt
            results = self._evaluate() if self.writes else {}
            failed = False
        except RunError as error:
            if not isinstance(error, GoneError):  # the one that is gone knows why
                note_failure(self.folder, error)
            raise type(error)(f"{error}. {self._last_good()}") from error
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
        count = len(config.seeds)
        with Progress(config.total_steps, num_members=count, start_step=trainer.step, stream=sys.stdout) as progress:
            metrics: dict[str, Tensor] = {}
            while not trainer.finished and not self.group.any(bool(stop)):
                metrics |= trainer.iterate()
                if trainer.step >= self.due["log"] or trainer.finished:
                    self.due["log"] = trainer.step + config.log_interval
                    trainer.raise_faults()
                    self.seconds = time.perf_counter() - start
                    progress.update(trainer.step, self._log(mean_metrics(metrics, self.group)))
                    metrics = {}
                    self._stop_at_return()
                if trainer.step >= self.due["evaluation"] and not trainer.finished:
                    self.due["evaluation"] = trainer.step + config.evaluation_interval
                    before = time.perf_counter()
                    if self.writes:
                        self._evaluate_members()
                    start += time.perf_counter() - before  # that was no training
                    self.mark = (time.perf_counter(), trainer.step)
                if trainer.step >= next_save or trainer.finished:
                    next_save = trainer.step + config.checkpoint_interval
                    self.save()
        if self.captured is not None:
            self.captured.release()  # the evaluation may want the memory
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
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        if config.variations:
            returns = {
                name: float(np.mean([rows[each]["train/return"] for each in own]))
                for name, own in members_by_variation(member_names(config)).items()
            }
            means["best/return"] = max((value for value in returns.values() if value == value), default=math.nan)
        return means

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
        members = member_results(config, rows, self.solved_at)
        for index, (member, means) in enumerate(zip(members, seed_means(members), strict=True)):
            self.sinks.summarise(index, {**member, **means})
        results = results_of(config, members, seconds=self.seconds)
        if self.group.size > 1:
            results["processes"] = self.group.size
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
        from gumbelrl.agents.plots import plot_run

        self.sinks.flush()
        plot_run(self.folder, self.config, threshold=self.threshold)

    # Saving ---------------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint; nobody goes on before it is there."""
        self.trainer.raise_faults()  # a checkpoint of what went wrong would be worth nothing
        self.sinks.flush()
        whole = whole_state(self.trainer.state_dict(), self.group)
        if whole is not None:
            self._write_checkpoint(whole)
        self.group.gather(None)

    def _write_checkpoint(self, whole: dict[str, Any]) -> None:
        tensors, state = flatten_state(whole)
        config = self.config.to_json()
        metadata = {
            "state": state,
            "run": {name: config[name] for name in DECIDED if name in config},
            "run_ids": self.run_ids,
            "solved_at": self.solved_at,
            "seconds": self.seconds,
            "due": self.due,
            "processes": self.group.size,
        }
        self.store.save(self.trainer.step, tensors, metadata)

    def _load(self) -> None:
        if self.members is None:
            checkpoint = self.store.latest(device=self.device)
        else:
            checkpoint = latest_members(self.store, self.members, device=self.device)
        config, saved = json.loads(json.dumps(self.config.to_json())), checkpoint.metadata["run"]
        for name in dict.fromkeys([*saved, *(each for each in DECIDED if each in config)]):
            asked, value = config.get(name), saved.get(name)
            if asked != value:
                raise RunError(
                    f"the checkpoint in {self.folder} is of {name} = {value}, but config.json there says {asked}"
                )
        state = unflatten_state(checkpoint.tensors, checkpoint.metadata["state"])
        self.trainer.load_state_dict(own_state(state, self.group))
        if (before := checkpoint.metadata.get("processes", 1)) != self.group.size:
            print(f"by {self.group.size} instead of {before}: minibatches meet otherwise from here on", flush=True)
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
        if not self.writes:
            self.sinks = Sinks()
            return
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


def load_experiment(folder: Path, *, group: Group = ALONE, members: slice | None = None) -> Experiment:
    """Return the run in `folder` as it was at its last checkpoint.

    Args:
        group: the processes that are to have its environments between them, whoever had them before.
        members: only these, to be played.

    Raises:
        RunError: there is no run there, or its checkpoint is damaged, foreign or newer; nothing is overwritten.
    """
    try:
        return Experiment(read_config(folder), resume=True, group=group, members=members)
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
