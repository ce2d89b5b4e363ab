"""The agents, by the name that the command line knows them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gumbelrl.agents.a2c import A2C, A2CConfig
from gumbelrl.agents.actor_critic import ActorCritic, ActorCriticConfig
from gumbelrl.agents.base import AgentFactory
from gumbelrl.agents.ddpg import DDPG, DDPGConfig
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.ppo import PPO, PPOConfig
from gumbelrl.agents.reinforce import Reinforce, ReinforceConfig
from gumbelrl.agents.sac import SAC, SACConfig
from gumbelrl.agents.td3 import TD3, TD3Config
from gumbelrl.policies import ESTIMATORS


@dataclass(frozen=True)
class AgentEntry:
    """An agent.

    Attributes:
        agent: its class, or what makes one.
        config: the dataclass of its settings.
        summary: a line about it.
        uses_estimator: it takes an estimator, a critic of actions and a temperature; see `NO_ESTIMATOR`.
    """

    agent: AgentFactory
    config: type[Any]
    summary: str
    uses_estimator: bool = True


AGENTS: dict[str, AgentEntry] = {
    "actor-critic": AgentEntry(
        ActorCritic,
        ActorCriticConfig,
        "on-policy, pathwise: a Q critic on λ-returns, the actor through an estimator, bounded divergence",
    ),
    "ddpg": AgentEntry(
        DDPG,
        DDPGConfig,
        "off-policy, pathwise: replay, one critic, the actor through an estimator",
    ),
    "td3": AgentEntry(
        TD3,
        TD3Config,
        "off-policy, pathwise: DDPG with two critics, a delayed actor and a smoothed target policy",
    ),
    "sac": AgentEntry(
        SAC,
        SACConfig,
        "off-policy, pathwise: replay, two critics of the entropy-regularised reward, the actor through an estimator",
    ),
    "reinforce": AgentEntry(
        Reinforce,
        ReinforceConfig,
        "on-policy, score function: Monte-Carlo returns of long rollouts, a learned baseline",
        uses_estimator=False,
    ),
    "a2c": AgentEntry(
        A2C,
        A2CConfig,
        "on-policy, score function: n-step advantages of short rollouts",
        uses_estimator=False,
    ),
    "ppo": AgentEntry(
        PPO,
        PPOConfig,
        "on-policy, score function: generalised advantages, epochs of minibatches, a clipped ratio",
        uses_estimator=False,
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


NO_ESTIMATOR = ("score-function", "state-value")  # what is said of an agent that takes no estimator and no critic


def resolve_policy(policy: str, critic: str, *, agent: str = "actor-critic") -> tuple[str, str]:
    """Return the names of the estimator and the critic that `--policy` and `--critic` ask for.

    Raises:
        RunError: there is no such policy, or it is a preset with another critic than the one asked for; or the agent
            takes none.
    """
    if not AGENTS[agent].uses_estimator:
        if (policy, critic) != NO_ESTIMATOR:
            raise RunError(
                f"--agent {agent} learns from returns by the score function and takes no --policy estimator and no "
                f"--critic: leave them out, or use --policy {policy} --critic {critic} with --agent actor-critic"
            )
        return NO_ESTIMATOR
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
