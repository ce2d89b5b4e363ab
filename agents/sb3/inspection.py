"""A look at an algorithm while it trains, which leaves its random numbers as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gumbelrl.policies.sb3.inspection import Inspection

if TYPE_CHECKING:
    from gumbelrl.agents.sb3.algorithm import GumbelOffPolicyAlgorithm


@torch.no_grad()
def inspect_replay(model: GumbelOffPolicyAlgorithm, count: int) -> Inspection | None:
    """Return the policy in `count` states of the replay, and what the actor climbs there.

    None before the replay holds any.
    """
    if model.replay_buffer is None or model.replay_buffer.size() == 0:
        return None
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 — what SB3 samples by
    try:
        batch = model._draw(count)
    except RuntimeError:  # of a HerReplayBuffer before the first episode has ended
        return None
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
    actor: Any = model.actor
    features = actor.features(batch.observation)
    policy = actor.policy(features, batch.mask)
    value = model.climbed_value(model.critic(batch.observation), policy)
    temperature = float(torch.as_tensor(actor.path.temperature(features)).mean())
    return Inspection(policy, temperature, list(actor.parameters()), actor.path.estimator, value)
