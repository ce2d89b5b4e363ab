"""What a network sees of an observation: a float32 vector, whatever the space."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from gumbelrl.policies.sampling import one_hot

ACTION_MASK = "action_mask"  # an entry of a Dict that is a mask of the actions, not something to be seen


def num_features(space: spaces.Space) -> int:
    """Return the length of the vector that `to_features` makes."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return sum(num_features(part) for _, part in _parts(space))
    return math.prod(space.shape or (1,))


def to_features(space: spaces.Space, observation: Any) -> Float[Tensor, "row feature"]:
    """Return observations as vectors.

    A Box or MultiBinary flattened; Discrete and MultiDiscrete one-hot; the parts of a Dict or Tuple, however deep, one
    after another in gymnasium's order. An entry `action_mask` of a Dict is left out.

    Args:
        space: of one observation.
        observation: `[row, *shape]`, or a tree of such tensors for a Dict or Tuple.
    """
    if isinstance(space, spaces.Discrete):
        return one_hot(observation - int(space.start), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        starts, counts = space.start.reshape(-1), space.nvec.reshape(-1)
        columns = zip(observation.flatten(1).unbind(1), starts, counts, strict=True)
        return torch.cat([one_hot(column - int(start), int(count)) for column, start, count in columns], dim=1)
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return torch.cat([to_features(part, observation[key]) for key, part in _parts(space)], dim=1)
    return observation.flatten(1).to(torch.float32)


def _parts(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    """Return (key, space) of each part that is seen."""
    items = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return [(key, part) for key, part in items if key != ACTION_MASK]


def action_mask(observation: Any, info: dict[str, Tensor], *, final: bool = False) -> Tensor | None:
    """Return the mask of the actions that came with an observation, `[row, ...]`, or None where none did.

    Args:
        observation: a dictionary may have it as its entry `action_mask`; else it is in `info`.
        info: of the same step.
        final: the observation is the one before any reset; in `info` its mask is `final_action_mask`.
    """
    if isinstance(observation, dict) and ACTION_MASK in observation:
        return observation[ACTION_MASK]
    return info.get(f"final_{ACTION_MASK}" if final else ACTION_MASK)
