"""The policy head inside stable-baselines3's unmodified agents; imports stable-baselines3.

`GumbelMaskableActorCriticPolicy`, for sb3-contrib's MaskablePPO, is in `gumbelrl.policies.sb3.maskable`, the one module
that needs sb3-contrib.
"""

from gumbelrl.policies.sb3.actor import GumbelActor
from gumbelrl.policies.sb3.actor_critic import (
    GumbelActorCriticCnnPolicy,
    GumbelActorCriticMultiInputPolicy,
    GumbelActorCriticPolicy,
)
from gumbelrl.policies.sb3.callback import GumbelCallback
from gumbelrl.policies.sb3.critic import LinearCritic
from gumbelrl.policies.sb3.distribution import make_gumbel_distribution
from gumbelrl.policies.sb3.off_policy import (
    GumbelSACCnnPolicy,
    GumbelSACMultiInputPolicy,
    GumbelSACPolicy,
    GumbelTD3CnnPolicy,
    GumbelTD3MultiInputPolicy,
    GumbelTD3Policy,
)
from gumbelrl.policies.sb3.reparameterised import pathwise_estimators, reparameterised

__all__ = [
    "GumbelActor",
    "GumbelActorCriticCnnPolicy",
    "GumbelActorCriticMultiInputPolicy",
    "GumbelActorCriticPolicy",
    "GumbelCallback",
    "GumbelSACCnnPolicy",
    "GumbelSACMultiInputPolicy",
    "GumbelSACPolicy",
    "GumbelTD3CnnPolicy",
    "GumbelTD3MultiInputPolicy",
    "GumbelTD3Policy",
    "LinearCritic",
    "make_gumbel_distribution",
    "pathwise_estimators",
    "reparameterised",
]
