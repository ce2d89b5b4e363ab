"""The command line, from typed dataclasses by tyro. The only importer of tyro."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, arg
from tyro.constructors import PrimitiveConstructorSpec

from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.experiment import DEVICES, TRACK_MODES, Experiment, RunConfig, load_experiment, report
from gumbelrl.agents.registry import AGENTS, POLICY_PRESETS
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


@dataclass(frozen=True)
class Options(Generic[Settings]):
    """Train an agent on a discrete environment; the critic's gradient passes the sample by --policy."""

    agent_config: Annotated[Settings, arg(name="")]
    """Settings of the agent."""
    env: str = RunConfig.env
    """Environment: one of ours or any gymnasium id with discrete actions."""
    policy: Annotated[str, _names([*ESTIMATORS, *POLICY_PRESETS])] = RunConfig.policy
    """How the gradient passes the sampled action: the estimator."""
    agent: Annotated[str, _names(list(AGENTS))] = RunConfig.agent
    """What learns."""
    critic: Annotated[str, _names(list(CRITICS))] = RunConfig.critic
    """Form of the critic: a value per choice, products of them, a network of observation and action, interpolated."""
    temperature: str = RunConfig.temperature
    """Temperature: a number, a schedule (linear:1.0:0.1, exponential:1.0:0.1, jang:1e-5), learned:1.0 or state:1.0."""
    seeds: Annotated[tuple[int, ...], _SEEDS] = RunConfig.seeds
    """Seeds, trained side by side in one process: 0 1 2, or 0..9."""
    total_steps: int = RunConfig.total_steps
    """Environment steps of each seed."""
    device: Annotated[str, _names(DEVICES)] = RunConfig.device
    """Where everything runs; auto takes CUDA where there is one."""
    threads: int = RunConfig.threads
    """CPU threads of PyTorch; networks this small gain nothing from more, and two runs side by side lose much."""
    output: Path | None = RunConfig.output
    """Folder of the run; made under runs/ where none is given."""
    track: Annotated[str, _names(TRACK_MODES)] = RunConfig.track
    """Weights & Biases; auto is online when you are logged in and offline otherwise."""
    resume: Path | None = None
    """Go on with the run in this folder; nothing else is needed."""
    evaluation_episodes: int = RunConfig.evaluation_episodes
    """Episodes of the final evaluation, for each seed, sampled and greedy."""
    log_interval: int = RunConfig.log_interval
    """Steps of each seed between rows of metrics."""
    checkpoint_interval: int = RunConfig.checkpoint_interval
    """Steps of each seed between checkpoints."""
    native: bool = RunConfig.native
    """Use our batched twin of a gymnasium environment where there is one."""


def parse(words: Sequence[str]) -> Options[Any]:
    """Return the options; the agent is looked up first, since its settings are options too."""
    agent = next((b for a, b in itertools.pairwise(words) if a == "--agent"), RunConfig.agent)
    agent = next((word.partition("=")[2] for word in words if word.startswith("--agent=")), agent)
    settings = AGENTS[choose("agent", agent, AGENTS)].config
    return tyro.cli(
        OmitArgPrefixes[Options[settings]],  # type: ignore[valid-type]
        prog="train.py",
        args=list(words),
        default=Options(agent_config=settings()),
    )


def main(words: Sequence[str], *, start: float | None = None) -> int:
    """Run; return the exit status: 0, 2 for what was asked wrongly, 130 after Ctrl-C."""
    start = time.perf_counter() if start is None else start
    experiment: Experiment | None = None
    try:
        options = parse(words)
        if options.resume is not None:
            experiment = load_experiment(options.resume)
            print(f"resuming {options.resume} at step {experiment.trainer.step:,}", flush=True)
        else:
            fields = {name: getattr(options, name) for name in RunConfig.__dataclass_fields__}
            experiment = Experiment(RunConfig(**fields))
        results = experiment.run()
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(_stopped(experiment), file=sys.stderr)
        return 130
    report(experiment, results, seconds=time.perf_counter() - start)
    return 0


def _stopped(experiment: Experiment | None) -> str:
    steps = experiment.store.steps() if experiment is not None else []
    if experiment is None or not steps:
        return "\nstopped; nothing had been saved yet"
    return f"\nstopped; saved at step {steps[-1]:,}. To go on:\n  python train.py --resume {experiment.folder}"
