"""The bonus for entropy in the actor's loss, with a learned coefficient: it keeps policies from saturating."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gumbelrl.agents.sb3.algorithm import GumbelOffPolicyAlgorithm

TARGET_SHARE = 0.15


class GumbelEntropyAlgorithm(GumbelOffPolicyAlgorithm):
    """An algorithm whose actor is rewarded for entropy; a policy that has become certain has no gradient left.

    Args:
        ent_coef: coefficient of the entropy: a number, or "auto" to learn it, from 0.2, or "auto_0.1" from 0.1.
        target_entropy: mean entropy that "auto" holds the policy at, in nats, summed over the groups of an action;
            "auto" is 0.15 of the largest, which with masks is that of the valid choices.
        ent_coef_rate: step of the log of the coefficient for each update, when the entropy is off by all of the
            largest; a plain integral controller, no Adam.
        arguments: as in `GumbelOffPolicyAlgorithm`.
    """

    needs_entropy: ClassVar[bool] = False

    def __init__(
        self,
        *,
        ent_coef: str | float,
        target_entropy: str | float,
        ent_coef_rate: float,
        _init_setup_model: bool,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments, _init_setup_model=False)
        self.ent_coef, self.target_entropy, self.ent_coef_rate = ent_coef, target_entropy, ent_coef_rate
        if _init_setup_model:
            self._setup_model()

    def _check(self) -> None:
        super()._check()
        if self.ent_coef != 0 or self.needs_entropy:
            parse_coefficient(self.ent_coef)
        if self.target_entropy != "auto" and not float(self.target_entropy) > 0:
            raise ValueError(
                f"target_entropy must be above 0, got {self.target_entropy}: the entropy of discrete actions is never "
                f"negative; 'auto' is {TARGET_SHARE} of the largest"
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        initial = -math.inf if self.ent_coef == 0 else math.log(parse_coefficient(self.ent_coef))
        self.log_ent_coef = torch.full((1,), initial, device=self.device)

    def entropy_bonus(self, entropy: Tensor, mask: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return α times the entropy, and move α so that the mean entropy nears its target."""
        coefficient = self.log_ent_coef.exp()
        if isinstance(self.ent_coef, str):
            largest = self._largest_entropy(mask)
            target = TARGET_SHARE if self.target_entropy == "auto" else float(self.target_entropy) / largest
            self.log_ent_coef += self.ent_coef_rate * (target - entropy.detach().mean() / largest)
        return coefficient * entropy, {"ent_coef": coefficient.squeeze(0)}

    def _largest_entropy(self, mask: Tensor | None) -> Tensor | float:
        if mask is None:
            return max(sum(math.log(count) for count in self.layout.choice_counts), 1e-6)
        return mask.sum(-1).clamp_min(1).log().sum(-1).mean().clamp_min(1e-6)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        states, variables = super()._get_torch_save_params()
        return states, [*variables, "log_ent_coef"]


def parse_coefficient(coefficient: str | float) -> float:
    """Return where an entropy coefficient starts: a number, "auto", or "auto_0.1".

    Raises:
        ValueError: it is neither, or not above 0.
    """
    text = str(coefficient)
    number = "0.2" if text == "auto" else text.removeprefix("auto_")
    try:
        initial = float(number)
    except ValueError:
        initial = math.nan
    if not 0 < initial < math.inf:
        raise ValueError(
            f"ent_coef must be a number above 0, 'auto', or 'auto_' and where it starts such as 'auto_0.1'; got "
            f"{coefficient!r}; without an entropy bonus SAC is GumbelTD3 with policy_delay=1"
        )
    return initial
