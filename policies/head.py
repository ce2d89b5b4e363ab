"""The policy head: features in, a distribution over one-hot actions out."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.policies.action_layout import ActionLayout
from gumbelrl.policies.categorical import CategoricalPolicy


class PolicyHead(nn.Module):
    """A linear layer from features `[*batch, feature]` to a `CategoricalPolicy` over a layout.

    Args:
        num_features: length of the last axis of the features.
        layout: the action space.
        gain: scale of the orthogonal weights; a small one starts near the uniform policy (Andrychowicz et al. 2020,
            arXiv:2006.05990, section 3.2).
    """

    def __init__(self, num_features: int, layout: ActionLayout, *, gain: float = 0.01) -> None:
        super().__init__()
        self.layout = layout
        self.linear = nn.Linear(num_features, layout.num_groups * layout.num_choices)
        nn.init.orthogonal_(self.linear.weight, gain)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Float[Tensor, "*batch feature"], mask: Any | None = None) -> CategoricalPolicy:
        """Return the policy; `mask` is a dynamic mask as `ActionLayout.merge_mask` takes it."""
        logits = self.linear(features).unflatten(-1, (self.layout.num_groups, self.layout.num_choices))
        return CategoricalPolicy(logits, self.layout.merge_mask(mask))
