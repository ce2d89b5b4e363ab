"""What one run is: its settings, how they are kept, and what is refused before anything is made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from gumbelrl.agents.actor_critic import ActorCriticConfig
from gumbelrl.agents.compilation import COMPILE_MODES
from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.precision import PRECISIONS
from gumbelrl.agents.registry import AGENTS, NO_ESTIMATOR, resolve_policy
from gumbelrl.agents.variations import Variation, check_variations, member_names
from gumbelrl.policies import parse_temperature

TRACK_MODES = ("auto", "online", "offline", "off")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class RunConfig:
    """What one run is; see `train.py --help`.

    Attributes:
        seeds: one a member.
        variations: what each member has of its own, one a member; empty where they differ in their seeds only.
        chunk_size: members that train at once, at the most; None for as many as memory holds.
        memory_limit: the most memory that a process may take, in bytes; None for what is available.
        agent_config: the agent's own settings.
    """

    env: str = "CartPole-v1"
    policy: str = "gumbel"
    agent: str = "actor-critic"
    critic: str = "linear"
    temperature: str = "1.0"
    seeds: tuple[int, ...] = (0,)
    variations: tuple[Variation, ...] = ()
    total_steps: int = 131_072
    stop_at_return: float | None = None
    device: str = "auto"
    threads: int = 1
    output: Path | None = None
    track: str = "auto"
    project: str = "gumbelrl"
    tags: tuple[str, ...] = ()
    notes: str = ""
    tensorboard: bool = False
    evaluation_episodes: int = 100
    evaluation_interval: int = 0
    video: bool = False
    log_interval: int = 2048
    checkpoint_interval: int = 32_768
    native: bool = True
    chunk_size: int | None = None
    memory_limit: int | None = None
    compile: str = "auto"
    precision: str = "float32"
    agent_config: Any = field(default_factory=ActorCriticConfig)

    def __post_init__(self) -> None:
        """Where the agent takes no estimator and none was asked for, do not name the default one."""
        takes_none = self.agent in AGENTS and not AGENTS[self.agent].uses_estimator
        if takes_none and (self.policy, self.critic) == (RunConfig.policy, RunConfig.critic):
            for name, value in zip(("policy", "critic"), NO_ESTIMATOR, strict=True):
                object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "output": str(self.output), "seeds": list(self.seeds), "tags": list(self.tags)}
        variations = list(data.pop("variations"))
        for name in ("chunk_size", "memory_limit"):
            if data[name] is None:
                del data[name]
        if self.precision == RunConfig.precision:
            del data["precision"]
        return {**data, "variations": variations} if variations else data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunConfig:
        entry = AGENTS[choose("agent", str(data["agent"]), AGENTS)]
        settings = {name: tuple(v) if isinstance(v, list) else v for name, v in data["agent_config"].items()}
        known = set(cls.__dataclass_fields__) - {"agent_config"}
        fields = {name: value for name, value in data.items() if name in known}
        fields |= {"seeds": tuple(data["seeds"]), "output": Path(data["output"]), "tags": tuple(data.get("tags", ()))}
        fields["variations"] = tuple(dict(each) for each in data.get("variations", ()))
        return cls(**fields, agent_config=entry.config(**settings))


def check_config(config: RunConfig) -> None:
    """Refuse what cannot run, before anything is made.

    Raises:
        RunError: with a sentence that says what is wrong and what would be right.
    """
    choose("agent", config.agent, AGENTS)
    if AGENTS[config.agent].uses_estimator:
        choose("critic", config.critic, CRITICS)
    elif config.temperature != RunConfig.temperature:
        raise RunError(f"--agent {config.agent} has no relaxed sample and takes no --temperature: leave it out")
    resolve_policy(config.policy, config.critic, agent=config.agent)
    if not config.seeds:
        raise RunError("no seed given: name at least one, such as --seeds 0 or --seeds 0..9")
    check_variations(config)
    members = Counter(zip(config.seeds, member_names(config), strict=True))
    repeated = sorted(seed for (seed, _), count in members.items() if count > 1)
    if repeated:
        raise RunError(f"seed {repeated[0]} is given more than once: members with equal seeds would be copies")
    if min(config.seeds) < 0:
        raise RunError(f"seeds must not be negative, got {min(config.seeds)}")
    for name in ("total_steps", "threads", "evaluation_episodes", "log_interval", "checkpoint_interval"):
        if getattr(config, name) < 1:
            raise RunError(f"{name.replace('_', '-')} must be at least 1, got {getattr(config, name)}")
    if config.chunk_size is not None and config.chunk_size < 1:
        raise RunError(f"chunk-size must be at least 1, got {config.chunk_size}; auto: as many as memory holds")
    if config.evaluation_interval < 0:
        raise RunError(f"evaluation-interval must not be negative, got {config.evaluation_interval}; 0: at the end")
    if config.stop_at_return is not None and not math.isfinite(config.stop_at_return):
        raise RunError(f"stop-at-return must be a finite number, got {config.stop_at_return}")
    if config.device not in DEVICES:
        raise RunError(f"unknown device {config.device!r}; choose one of {', '.join(DEVICES)}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise RunError("--device cuda: this machine has no CUDA device that PyTorch can use; --device cpu would run")
    if config.tensorboard and find_spec("tensorboard") is None:
        raise RunError("--tensorboard needs a package that is not installed: pip install 'gumbelrl[tensorboard]'")
    if config.track not in TRACK_MODES:
        raise RunError(f"unknown --track {config.track!r}; choose one of {', '.join(TRACK_MODES)}")
    choose("--compile", config.compile, COMPILE_MODES)
    choose("--precision", config.precision, PRECISIONS)
    try:
        parse_temperature(config.temperature)
    except ValueError as error:
        raise RunError(f"--temperature {config.temperature}: {error}") from error
