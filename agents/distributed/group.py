"""The processes that `torchrun` started together: who this one is, and what all of them agree on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from gumbelrl.agents.errors import RunError

TIMEOUT_S = 24 * 3600.0  # ranks wait for each other at the end only, for as long as the slowest still trains


class AgreedError(RunError):
    """An error that all processes know of: one of them tells it."""


class Group:
    """One process alone; `ProcessGroup` is the same of several."""

    rank, size = 0, 1

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every rank, in order; nobody goes on before all are here."""
        return [value]

    def agree(self, error: RunError | None) -> None:
        """Go on where no rank has an error.

        Raises:
            AgreedError: that of the first rank that has one, on all of them.
        """
        for rank, told in enumerate(self.gather(None if error is None else str(error))):
            if told is not None:
                raise AgreedError(told if rank == 0 else f"{told} (process {rank} of {self.size})")

    def close(self) -> None:
        """Leave."""


class ProcessGroup(Group):
    """The processes of `torchrun`, over gloo: no gradient or state is exchanged, only words and small numbers.

    Args:
        environment: `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and the address that torchrun sets.

    Raises:
        RunError: there are more processes on this machine than CUDA devices.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, *, timeout_s: float = TIMEOUT_S) -> None:
        import torch.distributed as dist

        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_s))
        local, devices = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        error = None
        if devices and local >= devices:
            error = RunError(f"--nproc-per-node is more than the {devices} CUDA devices of a machine: start {devices}")
        self.agree(error)
        if devices:
            torch.cuda.set_device(local)

    def gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:  # gloo: a connection was closed, or the time is over
            reason = str(error).splitlines()[0]
            raise RunError(f"another process of this run is gone; what it had saved stays ({reason})") from error
        return found

    def close(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()


def is_launched() -> bool:
    """True where torchrun started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_group() -> Group:
    """Return the group that torchrun put this process in, or one of this process alone."""
    return ProcessGroup() if is_launched() else Group()
