"""The pointer head: a policy over items that are presented, however many there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gumbelrl.policies.categorical import CategoricalPolicy

ATTENTIONS = ("dot-product", "additive")


def orthogonal_linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """Return a linear layer with orthogonal weights, scaled by √2, and no initial bias."""
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    nn.init.zeros_(layer.bias)
    return layer


class PointerHead(nn.Module):
    """Scores each item against a query; the choices are the items, in one group.

    `additive`, with the query as the decoder's state d and item j as the encoder's e_j (Vinyals, Fortunato & Jaitly
    2015, arXiv:1506.03134, equation 3; the alignment model of Bahdanau, Cho & Bengio 2014, arXiv:1409.0473, appendix
    A.1.2):

        u_j = vᵀ tanh(W₁ e_j + W₂ d),   p = softmax(u).

    `dot-product` (Vaswani et al. 2017, arXiv:1706.03762, equation 1, for a single query, before the values):

        u_j = (W₁ e_j)ᵀ (W₂ d)/√hidden.

    Items are scored apart, so that permuting them permutes the policy, and the number of items may differ from that in
    training. Dot-product scores express any bilinear form of query and item with as many hidden units as features, but
    nothing else; additive ones are nonlinear in both, but need many units where the two interact, as in a similarity.

    Args:
        num_query_features: length of the last axis of the query.
        num_item_features: length of the last axis of the items.
        hidden: units that query and item are projected to.
        attention: `dot-product` or `additive`.
        gain: scale of the last weights (v, or W₂ of the dot product); a small one starts near the uniform policy.
        linear: makes a layer from its numbers of inputs and outputs, which maps `[..., row, input]` to
            `[..., row, output]` and has a `weight`: `nn.Linear`, or one with a weight a member.

    Raises:
        ValueError: there is no such attention.
    """

    def __init__(
        self,
        num_query_features: int,
        num_item_features: int,
        *,
        hidden: int = 64,
        attention: Literal["dot-product", "additive"] = "dot-product",
        gain: float = 0.01,
        linear: Callable[[int, int], nn.Module] = orthogonal_linear,
    ) -> None:
        super().__init__()
        if attention not in ATTENTIONS:
            raise ValueError(f"unknown attention {attention!r}; choose one of {', '.join(ATTENTIONS)}")
        self.query = linear(num_query_features, hidden)
        self.item = linear(num_item_features, hidden)
        # The layer may have a bias, which shifts all scores alike and so changes nothing.
        self.score = linear(hidden, 1) if attention == "additive" else None
        self.scale = hidden**-0.5
        last = self.query if self.score is None else self.score
        assert isinstance(last.weight, Tensor)
        with torch.no_grad():
            last.weight.mul_(gain)

    def logits(
        self,
        query: Float[Tensor, "*batch query_feature"],
        items: Float[Tensor, "*batch item item_feature"],
        mask: Bool[Tensor, "*batch item"] | None = None,
    ) -> Float[Tensor, "*batch 1 item"]:
        """Return the scores of all items; those of masked items mean nothing."""
        if mask is not None:
            # Padding may hold anything: even NaN would otherwise reach the weights, as 0 · NaN.
            items = torch.where(mask.unsqueeze(-1), items, 0.0)
        keys, target = _by_row(self.item, items), self.query(query).unsqueeze(-2)
        if self.score is None:
            return (target @ keys.transpose(-1, -2)) * self.scale
        return _by_row(self.score, torch.tanh(keys + target)).transpose(-1, -2)

    def forward(
        self,
        query: Float[Tensor, "*batch query_feature"],
        items: Float[Tensor, "*batch item item_feature"],
        mask: Bool[Tensor, "*batch item"] | None = None,
    ) -> CategoricalPolicy:
        """Return the policy over items, `[*batch, 1, item]`; `mask` is True where there is an item to choose."""
        valid = None if mask is None else mask.to(torch.bool)
        return CategoricalPolicy(self.logits(query, items, valid), None if valid is None else valid.unsqueeze(-2))


def _by_row(layer: nn.Module, items: Float[Tensor, "*batch item input"]) -> Float[Tensor, "*batch item output"]:
    """Apply `layer` to every item as if it were a row of the batch, for layers with an axis of members before it."""
    if items.dim() == 2:
        return layer(items)
    return layer(items.flatten(-3, -2)).unflatten(-2, items.shape[-3:-1])
