"""Where an observation says which actions are valid."""

from __future__ import annotations

from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

MASK = "action_mask"  # in a dict observation, as gymnasium's and PettingZoo's environments name it


def mask_of(observation: PyTorchObs) -> Tensor | None:
    """Return the mask in a dict observation, nonzero where a choice is valid; None where there is none."""
    return observation.get(MASK) if isinstance(observation, dict) else None
