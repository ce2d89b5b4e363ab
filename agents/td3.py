"""`td3`: DDPG with the lower of two critics, a delayed actor and a smoothed target policy.

    V(s) = min_i E[Q'_i(s, a)],  a ~ (1 − σ) π'(s) + σ uniform        Q'_i and π' slow copies

The actor climbs the first critic, once in `policy_delay` updates; the slow copies move with it.

Target policy smoothing asks that similar actions have similar values, by noise on the target action. Discrete actions
have no such distance; what is left of it is that the target is an average over actions and not the value of the best
one: the target policy is sampled (an exact expectation where the critic is multilinear), and `smoothing` of it is
spread over all valid actions, so that it remains an average when the policy has become deterministic.

Reference: Fujimoto, van Hoof & Meger 2018, arXiv:1802.09477, algorithm 1. Differs: as DDPG does, and in the smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.off_policy import OffPolicyAgent
from gumbelrl.agents.off_policy_config import OffPolicyConfig
from gumbelrl.agents.replay import Batch
from gumbelrl.policies import CategoricalPolicy


@dataclass(frozen=True)
class TD3Config(OffPolicyConfig):
    """Settings of TD3, beside those of every off-policy agent.

    Attributes:
        polyak: as elsewhere, but taken once in `policy_delay` updates, hence twice as large.
        policy_delay: updates of the critics for each of the actor.
        smoothing: share of the target policy that is uniform over the valid actions.
    """

    polyak: float = 0.1
    policy_delay: int = 2
    smoothing: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy_delay < 1:
            raise RunError(f"policy_delay must be at least 1, got {self.policy_delay}")
        if not 0 <= self.smoothing <= 1:
            raise RunError(f"smoothing must be between 0 and 1, got {self.smoothing}")


class TD3(OffPolicyAgent[TD3Config]):
    """M members that learn side by side; see the module's docstring."""

    num_critics = 2
    has_target_actor = True

    def actor_is_due(self) -> bool:
        return self.num_updates % self.config.policy_delay == 0

    @torch.no_grad()
    def next_value(self, batch: Batch) -> Float[Tensor, "member batch"]:
        policy = self.target_policy(batch.next_observation, batch.next_mask)
        if self.config.smoothing:
            policy = smooth(policy, self.config.smoothing)
        return self.target_critic(batch.next_observation).expected_lowest(policy, self.streams)


def smooth(policy: CategoricalPolicy, share: float) -> CategoricalPolicy:
    """Return the policy with `share` of every group spread evenly over its valid choices."""
    valid = torch.ones_like(policy.logits)
    if policy.mask is not None:
        valid = policy.mask.expand_as(valid).to(valid.dtype)
    uniform = valid / valid.sum(-1, keepdim=True)
    return CategoricalPolicy(torch.lerp(policy.probs, uniform, share).log(), policy.mask)
