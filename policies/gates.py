"""Gates of a recurrent network: Bernoulli variables in [0, 1], each a policy of two choices inside the network.

A gate with logit l is open with probability σ(l). What goes on is either that probability or a sample of 0 or 1, whose
gradient has to come from somewhere: the estimators of actions, for two choices and element by element, since here no
value function can be called, but the loss differentiates the gate.

| gate | forward | backward |
|---|---|---|
| `sigmoid` | σ(l) | its own derivative |
| `argmax-st` | 1 where l > 0 | σ′(l) |
| `straight-through` | 1 with probability σ(l) | σ′(l) |
| `gumbel` | 1 with probability σ(l): where l + ε > 0, ε logistic | σ′((l + ε) / T) / T |

A logistic variable is the difference of two Gumbel ones, so that the last two are the estimators of the same names on
the logits (l, 0).

References: Bengio, Léonard & Courville 2013, arXiv:1308.3432, section 4; Jang, Gu & Poole 2016, arXiv:1611.01144;
Maddison, Mnih & Teh 2016, arXiv:1611.00712, appendix B (the binary case).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.random import RandomStreams

GATES = ("sigmoid", "argmax-st", "straight-through", "gumbel")
SAMPLED_GATES = ("straight-through", "gumbel")


def logistic_noise(
    shape: tuple[int, ...], *, generator: RandomStreams, divided: int = 0
) -> Float[Tensor, "member *shape"]:
    """Return standard logistic noise in float32, finite: the difference of two Gumbel variables.

    Args:
        divided: the axis along which a divided generator has its share.
    """
    uniform = generator.uniform(*shape, divided=divided)
    return torch.log(uniform) - torch.log1p(-uniform)


def gate(
    kind: str, logits: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"] | None = None, temperature: float = 1.0
) -> Float[Tensor, "*shape"]:
    """Return gates, each between 0 (closed) and 1 (open).

    Args:
        kind: one of `GATES`.
        logits: log-odds of being open, in nats.
        noise: logistic, for the sampled kinds; None for the likelier value.
        temperature: of the backward pass of `gumbel`.
    """
    if kind == "sigmoid":
        return torch.sigmoid(logits)
    scores = logits if noise is None or kind == "argmax-st" else logits + noise
    path = scores / temperature if kind == "gumbel" else logits
    if torch.compiler.is_compiling():
        relaxed = torch.sigmoid(path)
        return (scores > 0).to(logits.dtype) + (relaxed - relaxed.detach())  # the compiler fuses what that takes
    return _HardGate.apply(path, scores)  # type: ignore[no-untyped-call]


class _HardGate(torch.autograd.Function):
    """Whether `scores` are positive; backward the derivative of σ(path): one operation where arithmetic takes five."""

    @staticmethod
    def forward(ctx: Any, path: Tensor, scores: Tensor) -> Tensor:
        ctx.save_for_backward(path)
        return (scores > 0).to(path.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (path,) = ctx.saved_tensors
        relaxed = torch.sigmoid(path)
        return torch.ops.aten.sigmoid_backward(gradient, relaxed), None
