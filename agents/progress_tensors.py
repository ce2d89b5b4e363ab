"""What changes with the progress of a run, as tensors that stay: a recorded or traced step follows those."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gumbelrl.agents.member_settings import fill


def numbers_on_the_device(agent: Any) -> None:
    """Have the numbers that an agent's `set_progress` sets put into tensors that stay: a graph would keep the first.

    Temperatures and learning rates; what else follows the progress of a run is in tensors already.
    """
    set_progress = agent.set_progress
    held: dict[str, Tensor] = {}

    def hold(name: str, number: float | Tensor) -> Tensor:
        if name not in held:
            held[name] = torch.as_tensor(number, dtype=torch.get_default_dtype(), device=agent.streams.device)
        elif held[name] is not number:
            fill(held[name], number)
        return held[name]

    def set_progress_by_tensors(progress: float, *, temperature: float | Tensor) -> None:
        set_progress(progress, temperature=temperature)
        if hasattr(agent, "path"):
            agent.path.scheduled_temperature = hold("temperature", agent.path.scheduled_temperature)
        for index, group in enumerate(agent.optimizer.param_groups):
            group["lr"] = hold(f"rate {index}", group["lr"])

    agent.set_progress = set_progress_by_tensors
