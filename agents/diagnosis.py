"""What an agent's estimator does to its policy's gradient, measured while it learns."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.estimator_path import EstimatorPath
from gumbelrl.policies import CategoricalPolicy, Value, diagnose
from gumbelrl.random import RandomStreams

DIAGNOSED_STATES, DIAGNOSED_ESTIMATES = 32, 32


def diagnose_path(
    path: EstimatorPath,
    observation: Float[Tensor, "member batch feature"],
    policy: CategoricalPolicy,
    value: Value,
    *,
    generator: RandomStreams,
) -> dict[str, Float[Tensor, " member"]]:
    """Return the bias and the variance of the estimates in some states, against the exact gradient; `[member]` each.

    Args:
        policy: in these states.
        value: the critic in these states.
        generator: streams apart from those that the agent learns with, so that measuring changes nothing.
    """
    found = diagnose(
        path.estimator,
        policy.logits,
        value,
        mask=policy.mask,
        generator=generator,
        num_estimates=DIAGNOSED_ESTIMATES,
        **path.options(observation),
    )
    return {
        "gradient/bias": found.bias,
        "gradient/variance": found.variance,
        "gradient/signal_to_noise": found.signal_to_noise,
        "gradient/cosine": found.cosine,
        "policy/soft_hard_gap": found.soft_hard_gap,
    }
