"""`ddpg`: the simplest off-policy actor-critic; one critic, whose slope reaches the actor through an estimator.

    V(s) = E[Q'(s, a)],  a ~ π'(s)        Q' and π' slow copies of critic and actor

The expectation is exact where the critic is multilinear, its value at the probabilities where it is interpolated, and
one sample elsewhere.

Reference: Lillicrap et al. 2015, arXiv:1509.02971, algorithm 1. Differs: the policy is a distribution over discrete
actions, sampled to explore instead of disturbed, and the deterministic gradient becomes that of the estimator (with
`argmax-st` the policy that the critic is asked about is deterministic again). It is kept from saturating by a bonus
for entropy in the actor's loss alone (or, if asked, by a bound on its logits); the value is that of the reward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.off_policy import OffPolicyAgent
from gumbelrl.agents.off_policy_config import OffPolicyConfig
from gumbelrl.agents.replay import Batch


@dataclass(frozen=True)
class DDPGConfig(OffPolicyConfig):
    """Settings of DDPG: those of every off-policy agent."""


class DDPG(OffPolicyAgent[DDPGConfig]):
    """M members that learn side by side; see the module's docstring."""

    num_critics = 1
    has_target_actor = True

    @torch.no_grad()
    def next_value(self, batch: Batch) -> Float[Tensor, "member batch"]:
        policy = self.target_policy(batch.next_observation, batch.next_mask)
        return self.target_critic(batch.next_observation).expected_lowest(policy, self.streams)
