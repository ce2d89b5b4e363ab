"""`sac`: soft actor-critic for discrete actions; entropy is part of what the critics are fitted to.

    V(s) = E[min_i Q'_i(s, a)] + α H(π(s)),  a ~ π(s)        Q'_i slow copies of two critics

The actor climbs E[min_i Q_i(s, a)] + α H(π(s)) through an estimator. The entropy is exact. So is the expectation where
the critics are linear and there is a single group; with several groups, and where they are multilinear, it is
min_i E[Q_i]; with `interpolated` critics their value at the probabilities; with `joint` critics one sample. α is
learned so that the mean entropy stays at a target. Where returns span n steps, the entropy of the states between is
left out.

Reference: Haarnoja et al. 2018, arXiv:1812.05905, equations 3, 5 and 18; for discrete actions Christodoulou 2019,
arXiv:1910.07207, which is this with `exact` and a linear critic. Differs: the target entropy is .15 of the largest, not
.98, with which α keeps growing where there are two actions; all losses are taken on the networks as they were before
the update, and the step of log α is proportional to how far the entropy is off, without Adam.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.critics import EnsembleValue
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.off_policy import OffPolicyAgent
from gumbelrl.agents.off_policy_config import OffPolicyConfig
from gumbelrl.agents.replay import Batch
from gumbelrl.policies import CategoricalPolicy, Value


@dataclass(frozen=True)
class SACConfig(OffPolicyConfig):
    """Settings of SAC: those of every off-policy agent."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target_entropy == 0:
            raise RunError("target_entropy must be above 0: SAC without entropy is --agent td3 with --policy-delay 1")


class SAC(OffPolicyAgent[SACConfig]):
    """M members that learn side by side; see the module's docstring."""

    num_critics = 2

    @torch.no_grad()
    def next_value(self, batch: Batch) -> Float[Tensor, "member batch"]:
        policy = self.policy(batch.next_observation, batch.next_mask)
        value = self.target_critic(batch.next_observation).expected_lowest(policy, self.streams)
        return value + self.log_entropy_coefficient.exp().unsqueeze(1) * policy.entropy()

    def climbed_value(self, value: EnsembleValue, policy: CategoricalPolicy) -> Value:
        return value.lowest(policy.probs)
