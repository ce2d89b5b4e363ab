"""The command line, from typed dataclasses by tyro. The only importer of tyro."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, UseAppendAction, arg
from tyro.constructors import PrimitiveConstructorSpec

from gumbelrl.agents.compare.report import train_and_compare
from gumbelrl.agents.compare.run_set import RunSet, is_set
from gumbelrl.agents.compilation import COMPILE_MODES
from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.distributed.environments import SharedRun
from gumbelrl.agents.distributed.group import Group, is_launched
from gumbelrl.agents.distributed.parts import (
    SHARDS,
    Parts,
    Work,
    is_in_parts,
    results_in_parts,
    train_on_processes,
    train_parts,
    trains_in_parts,
)
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.memory import parse_bytes
from gumbelrl.agents.overview import overview
from gumbelrl.agents.precision import PRECISIONS
from gumbelrl.agents.presets import with_preset
from gumbelrl.agents.registry import AGENTS, POLICY_PRESETS
from gumbelrl.agents.run_config import DEVICES, TRACK_MODES, RunConfig
from gumbelrl.agents.run_folder import read_config
from gumbelrl.agents.run_report import report
from gumbelrl.agents.variations import TEMPERATURE, for_agent, parse_variations, with_seeds
from gumbelrl.policies import ESTIMATORS

Settings = TypeVar("Settings")


def parse_seeds(words: Sequence[str]) -> tuple[int, ...]:
    """`["0", "3..5"]` -> `(0, 3, 4, 5)`; both ends of a range count."""
    seeds: list[int] = []
    for word in words:
        first, dots, last = word.partition("..")
        try:
            seeds.extend(range(int(first), int(last) + 1) if dots else [int(first)])
        except ValueError:
            raise RunError(f"--seeds {word}: give numbers or ranges, such as --seeds 0 1 2 or --seeds 0..9") from None
    return tuple(seeds)


def _several(metavar: str) -> PrimitiveConstructorSpec[tuple[str, ...]]:
    """One word or more; every combination of such options is a run, and the runs are compared."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar} ...",
        instance_from_str=lambda words: tuple(words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: list(value),
    )


def _several_of(known: Sequence[str]) -> PrimitiveConstructorSpec[tuple[str, ...]]:
    return _several("{" + ",".join(known) + "}")


def _names(known: Sequence[str]) -> PrimitiveConstructorSpec[str]:
    """A word whose help lists what is known; it is checked later, where the message can give the nearest names."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(known) + "}",
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )


_SEEDS: PrimitiveConstructorSpec[tuple[int, ...]] = PrimitiveConstructorSpec(
    nargs="*",
    metavar="INT|FIRST..LAST ...",
    instance_from_str=lambda words: parse_seeds(words),
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=lambda value: [str(seed) for seed in value],
)


def _auto_or(metavar: str, parse_word: Callable[[str], int]) -> PrimitiveConstructorSpec[int | None]:
    """A number, or `auto` for None."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{auto,{metavar}}}",
        instance_from_str=lambda words: None if words[0] == "auto" else parse_word(words[0]),
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: ["auto" if value is None else str(value)],
    )


def _parse_chunk(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise RunError(f"--chunk-size {word}: give a number of members, or auto") from None


_CHUNK = _auto_or("INT", _parse_chunk)
_BYTES = _auto_or("BYTES", parse_bytes)


@dataclass(frozen=True)
class Options(Generic[Settings]):
    """Train an agent on a discrete environment; the critic's gradient passes the sample by --policy.

    Several words after --env, --agent, --policy, --critic or --temperature train every combination and compare them.
    """

    agent_config: Annotated[Settings, arg(name="")]
    """Settings of the agent."""
    env: Annotated[tuple[str, ...], _several("ID")] = (RunConfig.env,)
    """Environment: one of ours or any gymnasium id with discrete actions."""
    policy: Annotated[tuple[str, ...], _several_of([*ESTIMATORS, *POLICY_PRESETS])] = (RunConfig.policy,)
    """How the gradient passes the sampled action: the estimator."""
    agent: Annotated[tuple[str, ...], _several_of(list(AGENTS))] = (RunConfig.agent,)
    """What learns."""
    critic: Annotated[tuple[str, ...], _several_of(list(CRITICS))] = (RunConfig.critic,)
    """Form of the critic: a value per choice, products of them, a network of observation and action, interpolated."""
    temperature: Annotated[tuple[str, ...], _several("TEMPERATURE")] = (RunConfig.temperature,)
    """Temperature: a number, a schedule (linear:1.0:0.1, exponential:1.0:0.1, jang:1e-5), learned:1.0 or state:1.0."""
    seeds: Annotated[tuple[int, ...], _SEEDS] = RunConfig.seeds
    """Seeds, trained side by side in one process: 0 1 2, or 0..9."""
    vary: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="SETTING=VALUE,VALUE,...")] = ()
    """A setting of which every combination of values trains with all seeds, side by side in one process."""
    total_steps: int = RunConfig.total_steps
    """Environment steps of each seed."""
    stop_at_return: float | None = RunConfig.stop_at_return
    """End the training once the mean of the last 100 training episodes is this much, of every seed at once."""
    device: Annotated[str, _names(DEVICES)] = RunConfig.device
    """Where everything runs; auto takes CUDA where there is one."""
    threads: int = RunConfig.threads
    """CPU threads of PyTorch; networks this small gain nothing from more, and two runs side by side lose much."""
    output: Path | None = RunConfig.output
    """Folder of the run; made under runs/ where none is given."""
    track: Annotated[str, _names(TRACK_MODES)] = RunConfig.track
    """Weights & Biases; auto is online when you are logged in and offline otherwise."""
    project: str = RunConfig.project
    """Project on Weights & Biases."""
    tags: tuple[str, ...] = RunConfig.tags
    """Tags on Weights & Biases, beside the environment, the agent, the policy and the critic."""
    notes: str = RunConfig.notes
    """A note on the runs on Weights & Biases."""
    tensorboard: bool = RunConfig.tensorboard
    """Write a TensorBoard log too: tensorboard --logdir FOLDER/tensorboard."""
    shard: Annotated[str, _names(SHARDS)] = SHARDS[0]
    """What the processes of torchrun have between them: the seeds, or every seed's environments."""
    resume: Path | None = None
    """Go on with the run in this folder; nothing else is needed."""
    evaluate: Path | None = None
    """Play --episodes with the run in this folder, sampled and greedy; with --video, film it. Nothing is trained."""
    sweep: Path | None = None
    """Try the configurations of a W&B sweep file on this machine and rank them; the same command goes on."""
    count: int | None = None
    """The most configurations of a sweep; by default the file's run_cap."""
    preset: str | None = None
    """Tuned settings by name, see --list; options beside it win."""
    profile: bool = False
    """Measure where the time goes over a few iterations, write a trace for Perfetto, and stop there."""
    show_list: Annotated[bool, arg(name="list")] = False
    """List agents, policies, environments and presets, a line each."""
    evaluation_episodes: Annotated[int, arg(aliases=["--episodes"])] = RunConfig.evaluation_episodes
    """Episodes of an evaluation, for each seed, sampled and greedy."""
    evaluation_interval: int = RunConfig.evaluation_interval
    """Steps of each seed between evaluations; 0 evaluates at the end only."""
    video: bool = RunConfig.video
    """Film the first seed at each evaluation: MP4 where PyAV is installed, GIF otherwise."""
    log_interval: int = RunConfig.log_interval
    """Steps of each seed between rows of metrics."""
    checkpoint_interval: int = RunConfig.checkpoint_interval
    """Steps of each seed between checkpoints."""
    native: bool = RunConfig.native
    """Use our batched twin of a gymnasium environment where there is one."""
    chunk_size: Annotated[int | None, _CHUNK] = RunConfig.chunk_size
    """Members that train at once, at the most; auto: as many as memory holds. The others train after them."""
    memory_limit: Annotated[int | None, _BYTES] = RunConfig.memory_limit
    """The most memory that members may take together with the process, such as 2GB; auto: what is available."""
    compile: Annotated[str, _names(COMPILE_MODES)] = RunConfig.compile
    """Compile the optimiser step: two to three times as fast after some 20 s; auto does where a run is long enough.
    On a GPU, record whole iterations as CUDA graphs instead."""
    precision: Annotated[str, _names(PRECISIONS)] = RunConfig.precision
    """Of matrix products: tf32 on NVIDIA GPUs, bf16 for hidden layers; all else stays float32."""


def parse(words: Sequence[str], *, agent: str | None = None) -> Options[Any]:
    """Return the options; the agent is looked up first, since its settings are options too.

    Args:
        agent: whose settings to take, of several; the first one named by default.
    """
    named = [choose("agent", name, AGENTS) for name in agents_named(words)]
    settings = AGENTS[agent or named[0]].config
    return tyro.cli(
        OmitArgPrefixes[Options[settings]],  # type: ignore[valid-type]
        prog="train.py",
        args=list(words),
        default=Options(agent_config=settings()),
    )


def agents_named(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words after the last `--agent`."""
    named: tuple[str, ...] = ()
    for index, word in enumerate(words):
        if word == "--agent":
            named = tuple(itertools.takewhile(lambda other: not other.startswith("--"), words[index + 1 :]))
        elif word.startswith("--agent="):
            named = (word.partition("=")[2],)
    return named or (RunConfig.agent,)


def requested_runs(words: Sequence[str]) -> list[RunConfig]:
    """Return a run for every combination that the words ask for, environments outermost.

    An agent that takes no estimator is there once in each environment, whatever the others are to try.
    """
    agents = tuple(dict.fromkeys(agents_named(words)))
    configs = []
    for agent in agents:
        options = parse(words, agent=agent)
        choices = {name: getattr(options, name) for name in ("env", "policy", "critic", "temperature")}
        if len(agents) > 1 and not AGENTS[agent].uses_estimator:
            choices |= {name: (getattr(RunConfig, name),) for name in ("policy", "critic", "temperature")}
        variations = parse_variations(options.vary)
        if variations and TEMPERATURE in variations[0] and len(options.temperature) > 1:
            raise RunError("--temperature and --vary temperature both name several: give them to one of the two")
        if len(agents) > 1:
            variations = for_agent(agent, variations)
        fields = {name: getattr(options, name) for name in RunConfig.__dataclass_fields__ if hasattr(options, name)}
        fields |= dict(zip(("seeds", "variations"), with_seeds(options.seeds, variations), strict=True))
        if nothing := [name for name, values in choices.items() if not values]:
            raise RunError(f"--{nothing[0]}: name at least one")
        for combination in itertools.product(*(dict.fromkeys(values) for values in choices.values())):
            chosen = dict(zip(choices, combination, strict=True))
            configs.append(RunConfig(**(fields | {"agent": agent} | chosen)))
    envs = list(dict.fromkeys(config.env for config in configs))
    return sorted(configs, key=lambda config: envs.index(config.env))


def main(words: Sequence[str], *, start: float | None = None) -> int:
    """Run; return the exit status.

    Returns:
        0; 1 where some of several runs failed; 2 for what was asked wrongly; 130 after Ctrl-C.
    """
    start = time.perf_counter() if start is None else start
    experiment: Experiment | None = None
    try:
        words = with_preset(words)
        options = parse(words)
        if is_launched():
            return train_on_processes(lambda group: _work(options, words, group), start=start)
        if options.resume is not None and is_in_parts(options.resume):
            return train_parts(Parts.load(options.resume), Group(), start=start)
        if (status := _other_work(options, words)) is not None:
            return status
        if options.resume is not None and is_set(options.resume):
            return train_and_compare(RunSet.load(options.resume), start=start)
        if options.resume is not None and (results := results_in_parts(options.resume)) is not None:
            report(read_config(options.resume), options.resume, results, seconds=time.perf_counter() - start)
            return 0
        if options.resume is not None:
            experiment = load_experiment(options.resume)
            print(f"resuming {options.resume} at step {experiment.trainer.step:,}", flush=True)
        else:
            configs = requested_runs(words)
            if len(configs) > 1 and options.profile:
                raise RunError(f"--profile looks at one run, and these are {len(configs)}")
            if len(configs) > 1:
                return train_and_compare(RunSet.create(configs, options.output), start=start)
            if trains_in_parts(configs[0]):
                if options.profile:
                    raise RunError("--profile looks at one chunk: name as many --seeds as train at once")
                return train_parts(Parts.create(configs[0], Group()), Group(), start=start)
            experiment = Experiment(configs[0])
        if options.profile:
            from gumbelrl.agents.profiling import profile_run

            return profile_run(experiment)
        results = experiment.run()
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(_stopped(experiment), file=sys.stderr)
        return 130
    report(experiment.config, experiment.folder, results, seconds=time.perf_counter() - start)
    return 0


def _work(options: Options[Any], words: Sequence[str], group: Group) -> Work:
    """Return what the processes of torchrun are to train.

    Raises:
        AgreedError: on all of them, where it is nothing for several processes, or one refuses it.
    """
    configs = group.together(lambda: _runs_of_processes(options, words))
    if options.resume is not None:
        folder = options.resume
        return Parts.load(folder) if is_in_parts(folder) else SharedRun.load(folder, group)
    return SharedRun.create(configs[0], group) if options.shard == "envs" else Parts.create(configs[0], group)


def _runs_of_processes(options: Options[Any], words: Sequence[str]) -> list[RunConfig]:
    """Return the one run that is asked for, or none where a folder is gone on with.

    Raises:
        RunError: what is asked for is nothing for several processes.
    """
    choose("--shard", options.shard, SHARDS)
    alone = {"list": options.show_list, "profile": options.profile}
    alone |= {name: getattr(options, name) is not None for name in ("evaluate", "sweep")}
    if asked := [name for name, wanted in alone.items() if wanted]:
        raise RunError(f"--{asked[0]} is for one process: start it without torchrun")
    if options.resume is not None:
        if options.shard == "envs" and is_in_parts(options.resume):
            raise RunError(f"--resume {options.resume}: its seeds are in parts; leave --shard envs out")
        return []
    configs = requested_runs(words)
    if len(configs) > 1:
        raise RunError(f"processes share one run, and these are {len(configs)}: start torchrun for each")
    return configs


def _other_work(options: Options[Any], words: Sequence[str]) -> int | None:
    """Do what is asked for that trains no single run; return the exit status, or None where it is not asked for."""
    if options.show_list:
        print(overview())
        return 0
    if options.evaluate is not None:
        from gumbelrl.agents.evaluate_run import evaluate_run

        return evaluate_run(
            options.evaluate, episodes=options.evaluation_episodes, video=options.video, track=options.track
        )
    if options.sweep is not None:
        from gumbelrl.agents.sweep.local import run_sweep

        return run_sweep(options.sweep, build=requested_runs, words=words, folder=options.output, count=options.count)
    return None


def _stopped(experiment: Experiment | None) -> str:
    steps = experiment.store.steps() if experiment is not None else []
    if experiment is None or not steps:
        return "\nstopped; nothing had been saved yet"
    return f"\nstopped; saved at step {steps[-1]:,}. To go on:\n  python train.py --resume {experiment.folder}"
