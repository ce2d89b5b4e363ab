"""A callback that notes the times of a run, for stable-baselines3, sb3-contrib and SBX."""

from __future__ import annotations

import numpy as np
from record import WINDOW, Recorder
from stable_baselines3.common.callbacks import BaseCallback


class Marks(BaseCallback):
    """Marks every 256 steps or so.

    Args:
        updates_per_step: optimiser steps for each environment step.
        learning_starts: steps before the first of them.
    """

    def __init__(self, recorder: Recorder, *, updates_per_step: float, learning_starts: int = 0) -> None:
        super().__init__()
        self.recorder, self.rate, self.starts = recorder, updates_per_step, learning_starts
        self.due = 0

    def _on_step(self) -> bool:
        if self.num_timesteps < self.due:
            return True
        self.due = self.num_timesteps + 256
        seen = self.model.ep_info_buffer
        mean = float(np.mean([episode["r"] for episode in seen])) if seen and len(seen) == WINDOW else None
        updates = int(max(self.num_timesteps - self.starts, 0) * self.rate)
        return self.recorder.mark(self.num_timesteps, updates, mean)
