"""The agents, by the name that the command line knows them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gumbelrl.agents.actor_critic import ActorCritic, ActorCriticConfig
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.policies import ESTIMATORS


@dataclass(frozen=True)
class AgentEntry:
    """An agent: its class, the dataclass of its settings, and a line about it."""

    agent: type[ActorCritic]
    config: type[Any]
    summary: str


AGENTS: dict[str, AgentEntry] = {
    "actor-critic": AgentEntry(
        ActorCritic,
        ActorCriticConfig,
        "on-policy, pathwise: a Q critic on λ-returns, the actor through an estimator, bounded divergence",
    ),
}


@dataclass(frozen=True)
class PolicyPreset:
    """A name for an estimator with the critic that it was published with."""

    estimator: str
    critic: str
    paper: str


POLICY_PRESETS: dict[str, PolicyPreset] = {
    "distributions-as-actions": PolicyPreset("softmax", "interpolated", "arXiv:2506.16608"),
}


def resolve_policy(policy: str, critic: str) -> tuple[str, str]:
    """Return the names of the estimator and the critic that `--policy` and `--critic` ask for.

    Raises:
        RunError: there is no such policy, or it is a preset with another critic than the one asked for.
    """
    choose("policy", policy, [*ESTIMATORS, *POLICY_PRESETS])
    if policy not in POLICY_PRESETS:
        return policy, critic
    preset = POLICY_PRESETS[policy]
    if critic not in ("linear", preset.critic):  # linear is the default: nothing was asked for
        raise RunError(
            f"--policy {policy} is {preset.estimator} with --critic {preset.critic}; for --critic {critic} use "
            f"--policy {preset.estimator}"
        )
    return preset.estimator, preset.critic
