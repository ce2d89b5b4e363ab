"""What a network sees of an observation: a float32 vector."""

from __future__ import annotations

import math

import torch
from gymnasium import spaces
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional


def num_features(space: spaces.Space) -> int:
    """Return the length of the vector: the elements of a Box, the states of a Discrete space."""
    return int(space.n) if isinstance(space, spaces.Discrete) else math.prod(space.shape or (1,))


def to_features(space: spaces.Space, observation: Shaped[Tensor, "row *shape"]) -> Float[Tensor, "row feature"]:
    """Return observations as vectors: a Box flattened, a Discrete state one-hot."""
    if isinstance(space, spaces.Discrete):
        return functional.one_hot(observation - int(space.start), int(space.n)).to(torch.float32)
    return observation.flatten(1).to(torch.float32)
