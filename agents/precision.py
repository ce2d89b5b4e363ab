"""In which numbers matrix products are taken: `--precision float32 | tf32 | bf16`.

- `float32`: as everything else.
- `tf32`: factors rounded to 10 bits of mantissa inside the matrix units of an NVIDIA GPU, sums in float32.
- `bf16`: the products of hidden layers and convolutions in bfloat16, 7 bits of mantissa: inputs and weights are rounded
  for the product, and what comes out is float32 again. The last layers, whose outputs are logits and values, sampling,
  losses, log-probabilities, gradients' sums, the optimiser and its moments stay in float32.

By casts of its own instead of `torch.autocast`, which would decide by operation, log-probabilities and losses included,
and keeps copies of weights that a CUDA graph would not refresh.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.networks import StackedLinear, StackedMLP
from gumbelrl.agents.perception.convolution import StackedConvolution

PRECISIONS = ("float32", "tf32", "bf16")

WIDE = 256
"""Units from which on a CPU with avx512_bf16 gains by bfloat16. On one core of an EPYC (Zen 4) an iteration of PPO took
1.20 of float32's time with two layers of 64 units, .78 with 256, .60 with 1,024 (benchmarks/precision.py)."""


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        RunError: there is no such precision, or the device would have to emulate it.
    """
    choose("--precision", precision, PRECISIONS)
    if precision == "float32":
        return
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) < (8, 0):
            raise RunError(
                f"--precision {precision} needs a GPU of compute capability 8.0 (2020) or newer: leave it out"
            )
    elif precision == "tf32":
        raise RunError("--precision tf32 is what the matrix units of NVIDIA GPUs do; on a CPU take float32 or bf16")
    elif not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        raise RunError(
            "--precision bf16: this CPU cannot multiply bfloat16 (it has neither avx512_bf16 nor AMX): leave it out"
        )


def set_precision(precision: str, agent: Any, device: torch.device) -> None:
    """Have an agent's networks multiply in a precision.

    tf32 is a setting of PyTorch, and so of the whole process; it is set back where another run asks for another.

    Raises:
        RunError: as `check_precision`.
    """
    check_precision(precision, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision != "bf16":
        return
    layers = list(_layers(agent))
    for layer in layers:
        layer.factors = torch.bfloat16
    if device.type == "cpu" and max(layer.weight.shape[2] for layer in layers) < WIDE:
        warnings.warn(f"--precision bf16 makes layers of fewer than {WIDE} units slower on a CPU", stacklevel=2)


def _layers(agent: Any) -> Iterator[StackedLinear]:
    """Yield the hidden layers and convolutions of an agent's actors and critics."""
    networks = ("actor", "critic", "value_network", "target_actor", "target_critic")
    for network in (getattr(agent, name, None) for name in networks):
        for module in network.modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, StackedMLP):
                yield from module.hidden_layers  # type: ignore[misc]
            elif isinstance(module, StackedConvolution):
                yield module.linear
