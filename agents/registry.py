"""The agents, by the name that the command line knows them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gumbelrl.agents.actor_critic import ActorCritic, ActorCriticConfig


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
