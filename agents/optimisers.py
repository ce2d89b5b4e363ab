"""Adam and RMSprop on a few flat tensors, by torch's functional forms and to the same bits as torch's classes.

An optimiser of `torch.optim` imports torch's compiler when it is made and again looks for it in each step: 1.3 s before
the first update, and half of the step's time where a network has ten thousand parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop


def _zeros(parameter: Tensor) -> Tensor:
    # Not `zeros_like`, which imports SymPy for a tensor that only says how large it is (`meta`).
    return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)


class Optimiser(ABC):
    """What agents use of `torch.optim.Optimizer`.

    A parameter without a gradient is left as it is; its state is made by its first step.

    Args:
        groups: tensors, or dictionaries of `params`, a list of tensors, and their own `lr`.
        lr: learning rate, a number or a tensor on the parameters' device, which may be filled with another later;
            `[row, 1]` gives each row of the parameters its own.
        eps: ε, beside the square root of the second moment.

    Attributes:
        param_groups: `params` and `lr` of each group.
        state: parameter -> name -> tensor.
        written_out: step by arithmetic that a compiler can fuse, instead of by torch's kernels.
    """

    written_out = False

    def __init__(
        self, groups: Iterable[Tensor] | Iterable[dict[str, Any]], *, lr: float | Tensor = 1e-3, eps: float = 1e-8
    ) -> None:
        self.eps = eps
        given: list[Any] = list(groups)
        first = [{"params": given}] if isinstance(given[0], Tensor) else given
        self.param_groups: list[dict[str, Any]] = [{"lr": lr, **group} for group in first]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their `.grad`."""
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] or self._new_state(parameter) for parameter in moved]
            gradients = [parameter.grad for parameter in moved]
            if moved and isinstance(group["lr"], Tensor) and group["lr"].dim():
                self._move_rows(moved, gradients, states, group["lr"])
            elif moved:
                self._move(moved, gradients, states, group["lr"])

    def _move_rows(
        self, parameters: list[Tensor], gradients: list[Tensor], states: Sequence[dict[str, Tensor]], lr: Tensor
    ) -> None:
        """Move each row at its own rate: both rules are linear in it, so the step of rate 1 is scaled."""
        before = [parameter.clone() for parameter in parameters]
        self._move(parameters, gradients, states, 1.0)
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(torch.lerp(old, parameter, lr))

    def _new_state(self, parameter: Tensor) -> dict[str, Tensor]:
        self.state[parameter] |= self.initial(parameter)
        return self.state[parameter]

    @abstractmethod
    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return the state before the first step, under the names of torch's."""

    def _move(
        self, parameters: list[Tensor], gradients: list[Tensor], states: Sequence[dict[str, Tensor]], lr: float | Tensor
    ) -> None:
        if not self.written_out:
            self._kernels(parameters, gradients, states, lr)
            return
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
            self._arithmetic(parameter, gradient, state, lr)

    @abstractmethod
    def _kernels(
        self, parameters: list[Tensor], gradients: list[Tensor], states: Sequence[dict[str, Tensor]], lr: float | Tensor
    ) -> None: ...

    @abstractmethod
    def _arithmetic(
        self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float | Tensor
    ) -> None: ...


class Adam(Optimiser):
    """Adam, as `torch.optim.Adam(…, fused=True)`.

    Reference: Kingma & Ba 2015, arXiv:1412.6980.
    """

    betas = (0.9, 0.999)

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": _zeros(parameter),
            "exp_avg_sq": _zeros(parameter),
        }

    def _kernels(
        self, parameters: list[Tensor], gradients: list[Tensor], states: Sequence[dict[str, Tensor]], lr: float | Tensor
    ) -> None:
        adam(
            parameters,
            gradients,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=0.0,
            eps=self.eps,
            maximize=False,
        )

    def _arithmetic(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float | Tensor) -> None:
        """Move by algorithm 1, as torch orders it; decays of the first moments in float64, since 1 − .999 cancels."""
        first, second = self.betas
        step = state["step"].add_(1.0).double()
        state["exp_avg"].lerp_(gradient, 1.0 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        size = (lr / (1.0 - first**step)).float()
        scale = (1.0 - second**step).sqrt().float()
        parameter.sub_(size * state["exp_avg"] / (state["exp_avg_sq"].sqrt() / scale + self.eps))


class RMSprop(Optimiser):
    """RMSprop, as `torch.optim.RMSprop(…, foreach=True)`, with its decay of .99 and without momentum.

    Reference: Tieleman & Hinton 2012, lecture 6.5.
    """

    decay = 0.99

    def initial(self, parameter: Tensor) -> dict[str, Tensor]:
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "square_avg": _zeros(parameter),
        }

    def _kernels(
        self, parameters: list[Tensor], gradients: list[Tensor], states: Sequence[dict[str, Tensor]], lr: float | Tensor
    ) -> None:
        rmsprop(
            parameters,
            gradients,
            [state["square_avg"] for state in states],
            [],
            [],
            [state["step"] for state in states],
            foreach=True,
            capturable=parameters[0].is_cuda,  # otherwise the learning rate would be read on the host
            lr=lr,  # type: ignore[arg-type]
            alpha=self.decay,
            eps=self.eps,
            weight_decay=0.0,
            momentum=0.0,
            centered=False,
        )

    def _arithmetic(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], lr: float | Tensor) -> None:
        """Move by the lecture's rule, as torch orders it."""
        state["step"].add_(1.0)
        state["square_avg"].mul_(self.decay).addcmul_(gradient, gradient, value=1.0 - self.decay)
        parameter.sub_(lr * gradient / (state["square_avg"].sqrt() + self.eps))
