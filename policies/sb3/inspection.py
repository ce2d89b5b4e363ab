"""What can be looked at in a policy while stable-baselines3 trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.estimators import Estimator, Value
from gumbelrl.policies.sb3.actor import GumbelActor
from gumbelrl.policies.sb3.critic import LinearCritic


class Inspection(NamedTuple):
    """A policy in some states, for `GumbelCallback`.

    It asks the policy, by `inspect_head(observation)`, or an algorithm that has the states itself, by
    `inspect_last(count)`, which returns None before there are any.

    Attributes:
        policy: in these states.
        temperature: of the policy or of its estimator.
        parameters: those of the actor, whose gradient is told; of the whole policy where they cannot be told apart.
        estimator: how the gradient passes the sample; None for the score function of PPO and A2C.
        value: what the actor climbs in these states, for `diagnose`; None without an estimator.
    """

    policy: CategoricalPolicy
    temperature: float
    parameters: Sequence[nn.Parameter]
    estimator: Estimator | None = None
    value: Value | None = None


def critic_value(critic: ContinuousCritic, actor: GumbelActor, observation: PyTorchObs, *, lowest: bool) -> Value:
    """Return the value that SAC's actor (`lowest` of the critics) or TD3's (the first) climbs in some states."""
    with torch.no_grad():
        features = critic.extract_features(observation, critic.features_extractor)
    networks = critic.q_networks if lowest else critic.q_networks[:1]

    def value(action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        flat = actor.flat(action)
        if isinstance(critic, LinearCritic):
            values = [critic.value(network, features, flat) for network in networks]
        else:
            inputs = torch.cat((features.expand(*flat.shape[:-1], -1), flat), dim=-1)
            values = [network(inputs) for network in networks]
        return torch.cat(values, dim=-1).amin(-1)

    return value
