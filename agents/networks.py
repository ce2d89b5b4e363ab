"""Networks with a member axis: M independent multilayer perceptrons in one set of tensors.

Weights are `[member, in, out]` and applied with `baddbmm`, so that a population costs one kernel a layer. The
parameters of all networks of an agent live in one flat tensor (`FlatParameters`), so that clipping gradients and the
optimiser step are one operation each, whatever the number of layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from gumbelrl.random import RandomStreams

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": torch.relu,
    "tanh": torch.tanh,
}


def orthogonal(streams: RandomStreams, rows: int, columns: int, gain: float) -> Float[Tensor, "member rows columns"]:
    """Return one (semi-)orthogonal matrix a member (Saxe et al. 2013, arXiv:1312.6120), scaled by `gain`."""
    tall = streams.normal(max(rows, columns), min(rows, columns)).double()
    basis, triangle = torch.linalg.qr(tall)
    # The sign makes the distribution uniform over orthogonal matrices (Mezzadri 2007, math-ph/0609050).
    basis = basis * torch.sign(torch.diagonal(triangle, dim1=-2, dim2=-1)).unsqueeze(-2)
    shaped = basis if rows >= columns else basis.transpose(-1, -2)
    return (gain * shaped).to(torch.get_default_dtype()).contiguous()


class StackedLinear(nn.Module):
    """`[..., member, batch, in] -> [..., member, batch, out]`, an affine map of its own for each member.

    Attributes:
        factors: what inputs and weights are rounded to for the product, which is then rounded back; None for neither.
    """

    factors: torch.dtype | None = None

    def __init__(self, streams: RandomStreams, num_inputs: int, num_outputs: int, *, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(orthogonal(streams, num_inputs, num_outputs, gain))
        self.bias = nn.Parameter(torch.zeros(streams.rows, 1, num_outputs, device=streams.device))

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() == 3:
            return self._product(inputs)
        # Samples may lead the member axis; they join the batch for the product and come back to the front.
        folded = inputs.movedim(-3, 0)
        outputs = self._product(folded.flatten(1, -2))
        return outputs.view(*folded.shape[:-1], -1).movedim(0, -3)

    def _product(self, inputs: Float[Tensor, "member row in"]) -> Float[Tensor, "member row out"]:
        if self.factors is None:
            return torch.baddbmm(self.bias, inputs, self.weight)
        rounded = (each.to(self.factors) for each in (self.bias, inputs, self.weight))
        return torch.baddbmm(*rounded).to(inputs.dtype)


class StackedMLP(nn.Module):
    """Multilayer perceptron a member: hidden layers of `hidden` units, normalised (Ba et al. 2016), then activated.

    Args:
        streams: one stream a member; weights are orthogonal, the last layer's scaled by `last_gain`.
        hidden: units of each hidden layer.
        activation: a name in `ACTIVATIONS`.
        layer_norm: normalise each hidden layer before its activation (no learned scale: the next layer has one).
    """

    def __init__(
        self,
        streams: RandomStreams,
        num_inputs: int,
        num_outputs: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "silu",
        layer_norm: bool = True,
        last_gain: float = 1.0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
        sizes = [num_inputs, *hidden]
        self.hidden_layers = nn.ModuleList(
            StackedLinear(streams, wide, narrow) for wide, narrow in itertools.pairwise(sizes)
        )
        self.last_layer = StackedLinear(streams, sizes[-1], num_outputs, gain=last_gain)
        self.activation = ACTIVATIONS[activation]
        self.layer_norm = layer_norm

    def forward(self, inputs: Float[Tensor, "*sample member batch in"]) -> Float[Tensor, "*sample member batch out"]:
        features = inputs
        for layer in self.hidden_layers:
            features = layer(features)
            if self.layer_norm:
                features = functional.layer_norm(features, features.shape[-1:])
            features = self.activation(features)
        return self.last_layer(features)


class FlatParameters:
    """The parameters of some modules, each `[member, ...]`, as one tensor `[member, size]`.

    The modules keep working: their parameters become views of `flat`. Give `flat` to an optimiser that works
    elementwise.
    """

    def __init__(self, modules: Iterable[nn.Module], *, num_members: int) -> None:
        self.parameters = [parameter for module in modules for parameter in module.parameters()]
        columns = [parameter.detach().reshape(num_members, -1) for parameter in self.parameters]
        self.flat = nn.Parameter(torch.cat(columns, dim=1))
        start = 0
        for parameter, column in zip(self.parameters, columns, strict=True):
            parameter.data = self.flat.data[:, start : start + column.shape[1]].view(parameter.shape)
            start += column.shape[1]

    def gradient(self, loss: Float[Tensor, ""]) -> Float[Tensor, "member size"]:
        """Return the gradient of `loss`, laid out as `flat`; zero for what it does not depend on."""
        return self.gradients([self], loss)[0]

    @staticmethod
    def gradients(parts: Sequence[FlatParameters], loss: Float[Tensor, ""]) -> list[Float[Tensor, "member size"]]:
        """Return the gradient of `loss` for each of several flat tensors, from one backward pass."""
        parameters = [parameter for part in parts for parameter in part.parameters]
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rest = iter(found)
        return [
            torch.cat([next(rest).reshape(part.flat.shape[0], -1) for _ in part.parameters], dim=1) for part in parts
        ]
