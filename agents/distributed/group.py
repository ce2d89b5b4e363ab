"""The processes that `torchrun` started together: who this one is, and what all of them agree on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from gumbelrl.agents.errors import RunError

TIMEOUT_S = 24 * 3600.0  # some wait while the first evaluates, or the slowest still trains

Result = TypeVar("Result")


class AgreedError(RunError):
    """An error that all processes know of: one of them tells it."""


class GoneError(RunError):
    """Another process has ended, whatever was the matter with it."""


class Group:
    """One process alone; `ProcessGroup` is the same of several.

    Every method is called by all processes, in the same order, with tensors of the same shapes. What comes back is the
    same on all of them, to the bit.
    """

    rank, size = 0, 1

    # Numbers --------------------------------------------------------------------------------------------------------

    def means(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the mean over the processes of each of some tensors of one dtype, by one exchange."""
        return tensors

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        return self.means(tensor)[0]

    def joined(self, *tensors: Tensor, dim: int) -> tuple[Tensor, ...]:
        """Return each of some tensors with those of the other processes beside it, in order, by one exchange."""
        return tensors

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any process."""
        return flag

    # Words ----------------------------------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every rank, in order; nobody goes on before all are here."""
        return [value]

    def collect(self, value: Any) -> list[Any] | None:
        """Return the value of every rank, in order, on the first; None on the others, which need no memory for them."""
        return [value]

    def agree(self, error: RunError | None) -> None:
        """Go on where no rank has an error.

        Raises:
            AgreedError: that of the first rank that has one, on all of them.
        """
        for rank, told in enumerate(self.gather(None if error is None else str(error))):
            if told is not None:
                raise AgreedError(told if rank == 0 else f"{told} (process {rank} of {self.size})")

    def together(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns here, once it has returned on every process.

        Raises:
            AgreedError: it raised a `RunError` on one.
        """
        error, found = None, []
        try:
            found.append(work())
        except RunError as wrong:
            error = wrong
        self.agree(error)
        return found[0]

    def close(self) -> None:
        """Leave."""


ALONE = Group()


class ProcessGroup(Group):
    """The processes of `torchrun`: over gloo, but for tensors on CUDA, which go over NCCL.

    Args:
        environment: `RANK`, `WORLD_SIZE`, `LOCAL_RANK` and the address that torchrun sets.

    Raises:
        RunError: there are more processes on this machine than CUDA devices.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, *, timeout_s: float = TIMEOUT_S) -> None:
        import torch.distributed as dist

        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self.timeout = timedelta(seconds=timeout_s)
        self.on_cuda: Any = None  # made by the first tensor there
        dist.init_process_group("gloo", timeout=self.timeout)
        local, devices = int(environment.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        error = None
        if devices and local >= devices:
            error = RunError(f"--nproc-per-node is more than the {devices} CUDA devices of a machine: start {devices}")
        self.agree(error)
        if devices:
            torch.cuda.set_device(local)

    def means(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        import torch.distributed as dist

        bucket = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        self._exchange(dist.all_reduce, bucket, group=self._group_of(bucket))
        # Gloo and NCCL reduce every element once and send the sum to all, so that all hold the same bits.
        parts = bucket.div_(self.size).split([tensor.numel() for tensor in tensors])
        return tuple(part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True))

    def joined(self, *tensors: Tensor, dim: int) -> tuple[Tensor, ...]:
        import torch.distributed as dist

        bucket = torch.cat([tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors])
        found = [torch.empty_like(bucket) for _ in range(self.size)]
        self._exchange(dist.all_gather, found, bucket, group=self._group_of(bucket))
        ranks = [_unpacked(each, tensors) for each in found]
        return tuple(torch.cat(columns, dim=dim) for columns in zip(*ranks, strict=True))

    def any(self, flag: bool) -> bool:
        import torch.distributed as dist

        found = torch.tensor(int(flag))
        self._exchange(dist.all_reduce, found, op=dist.ReduceOp.MAX)
        return bool(found)

    def gather(self, value: Any) -> list[Any]:
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        self._exchange(dist.all_gather_object, found, value)
        return found

    def collect(self, value: Any) -> list[Any] | None:
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.size if self.rank == 0 else None
        self._exchange(dist.gather_object, value, found)
        return found

    def close(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()

    def _exchange(self, exchange: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            exchange(*arguments, **options)
        except RuntimeError as error:  # a connection was closed, or the time is over
            reason = str(error).splitlines()[0].partition(". ")[0]
            raise GoneError(f"another process of this run is gone; what it had saved stays ({reason})") from error

    def _group_of(self, tensor: Tensor) -> Any:
        import torch.distributed as dist

        if not tensor.is_cuda:
            return None
        if self.on_cuda is None:
            self.on_cuda = dist.new_group(backend="nccl", timeout=self.timeout)
        return self.on_cuda


def _unpacked(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of the shapes and dtypes of `like` from their bytes."""
    parts = packed.split([tensor.numel() * tensor.element_size() for tensor in like])
    # Cloned, since a number has to begin at a multiple of its size.
    return [part.clone().view(tensor.dtype).view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def is_launched() -> bool:
    """True where torchrun started this process and others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join_group() -> Group:
    """Return the group that torchrun put this process in, or one of this process alone."""
    return ProcessGroup() if is_launched() else Group()
