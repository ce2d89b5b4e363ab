"""`a2c`: advantage actor-critic; one step of the score function on n-step advantages after every short rollout.

Reference: Mnih et al. 2016, arXiv:1602.01783, algorithm S3, without its asynchrony: all environments step together and
their gradients are averaged. Details as in stable-baselines3, against whose code the tests compare: RMSprop with decay
.99 and ε = 1e-5 (Adam by `--optimizer adam`), gradients clipped at .5. Differs in its defaults: more environments and
longer rollouts, advantages normalised, rewards scaled down, and a higher learning rate that is annealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.member_settings import across
from gumbelrl.agents.rollout import Transition
from gumbelrl.agents.score_function import ScoreFunctionAgent, ScoreFunctionConfig, explained_variance
from gumbelrl.policies import CategoricalPolicy


@dataclass(frozen=True)
class A2CConfig(ScoreFunctionConfig):
    """Settings of A2C, beside those of every score-function agent.

    Attributes:
        rollout_steps: steps of each environment between updates: the n of the n-step advantage of its first state.
        trace: λ of the generalised advantages; 1 is n-step, as published.
    """

    num_envs: int = 16
    rollout_steps: int = 8
    optimizer: Literal["adam", "rmsprop"] = "rmsprop"
    learning_rate: float = 2e-3
    trace: float = 1.0

    per_member: ClassVar[tuple[str, ...]] = (*ScoreFunctionConfig.per_member, "trace")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.trace <= 1:
            raise RunError(f"trace must be between 0 and 1, got {self.trace}")


class A2C(ScoreFunctionAgent[A2CConfig]):
    """M members that learn side by side; see the module's docstring, and `ScoreFunctionAgent` for the arguments."""

    def update(self, rollout: Transition) -> dict[str, Tensor]:
        """Learn from a rollout; return metrics, each `[member]` (and `probs` `[member, batch, group, choice]`)."""
        data = self._rows(rollout)
        metrics = self._step(data)
        metrics["train/explained_variance"] = explained_variance(data["value"], data["target"])
        self.perception.merge(rollout)
        return metrics

    def _rows(self, rollout: Transition) -> dict[str, Tensor]:
        """Return what is learned from a rollout in rows."""
        return self.batch(self.perception.normalised(rollout), trace=across(self.config.trace, 1))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " member"], dict[str, Tensor]]:
        """Return the loss of a batch `[member, batch, ...]` and metrics."""
        config = self.config
        policy = CategoricalPolicy(self.logits(batch["observation"]), self.layout.merge_mask(batch.get("mask")))
        policy_loss = -(self.advantages(batch) * policy.log_prob(batch["action"])).mean(1)
        value = self.value(batch["observation"])
        value_loss = (value - batch["target"]).square().mean(1)
        entropy = policy.entropy().mean(1)
        loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        with torch.no_grad():
            metrics = {
                "train/policy_loss": policy_loss.detach(),
                "train/critic_loss": 0.5 * value_loss.detach(),
                "train/value": value.detach().mean(1),
                "policy/entropy": entropy.detach(),
                "policy/probs": policy.probs.detach(),
            }
        return loss, metrics
