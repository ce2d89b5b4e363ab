"""`ppo`: proximal policy optimisation; the score function on returns, reused for several epochs inside a clipped ratio.

Rollouts of many environments, generalised advantages, several passes of minibatches over each rollout, and a surrogate
that stops pushing where the new policy's probability of an action has left (1 ± clip) of the old one's.

Reference: Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9; details as in stable-baselines3, against whose
code the tests compare. Differs: rewards are scaled; where `target_kl` is set, the divergence is exact instead of
sampled, and a member that has moved too far sits out the rest of its update while the others go on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.member_settings import across, fill
from gumbelrl.agents.rollout import MinibatchLearner, Transition, minibatches, take
from gumbelrl.agents.score_function import (
    UNUSED_TEMPERATURE,
    ScoreFunctionAgent,
    ScoreFunctionConfig,
    explained_variance,
)
from gumbelrl.policies import ActionLayout, CategoricalPolicy
from gumbelrl.policies.temperature import Schedule


@dataclass(frozen=True)
class PPOConfig(ScoreFunctionConfig):
    """Settings of PPO, beside those of every score-function agent.

    Attributes:
        epochs: passes over each rollout.
        minibatches: optimiser steps of each pass.
        trace: λ of the generalised advantages; 0 is one-step, 1 is Monte-Carlo.
        clip: how far the ratio of new to old probability counts, either side of 1.
        anneal_clip: bring `clip` linearly to zero over the run.
        value_clip: how far a value may move from the old one in an update and still be fitted; none by default.
        target_kl: a member whose divergence from the old policy exceeds 1.5 times this, in nats a state, makes no more
            steps on the rollout; none by default.
    """

    num_envs: int = 16
    rollout_steps: int = 32
    learning_rate: float = 1e-3
    epochs: int = 10
    minibatches: int = 4
    trace: float = 0.95
    clip: float = 0.2
    anneal_clip: bool = True
    value_clip: float | None = None
    target_kl: float | None = None

    per_member: ClassVar[tuple[str, ...]] = (*ScoreFunctionConfig.per_member, "trace", "clip")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("clip", "value_clip", "target_kl"):
            setting = getattr(self, name)
            if setting is not None and not 0 < setting < math.inf:
                raise RunError(f"{name} must be above 0 and finite, got {setting}")
        if not 0 <= self.trace <= 1:
            raise RunError(f"trace must be between 0 and 1, got {self.trace}")
        if (self.num_envs * self.rollout_steps) % self.minibatches:
            raise RunError(
                f"num_envs x rollout_steps = {self.num_envs * self.rollout_steps} must be divisible by "
                f"minibatches = {self.minibatches}"
            )


class PPO(MinibatchLearner, ScoreFunctionAgent[PPOConfig]):
    """M members that learn side by side; see the module's docstring, and `ScoreFunctionAgent` for the arguments."""

    def __init__(
        self,
        config: PPOConfig,
        *,
        layout: ActionLayout,
        num_features: int,
        seeds: Sequence[int],
        estimator: str = "",
        critic: str = "",
        temperature: Schedule = UNUSED_TEMPERATURE,
        observation_space: spaces.Space | None = None,
        device: torch.device | str = "cpu",
        group: Group = ALONE,
    ) -> None:
        super().__init__(
            config,
            layout=layout,
            num_features=num_features,
            seeds=seeds,
            observation_space=observation_space,
            device=device,
            group=group,
        )
        self.clip = torch.as_tensor(across(config.clip, 1), device=device).clone()

    def set_progress(self, progress: float, *, temperature: float | Tensor) -> None:
        """Set the learning rate and the clipping by how much of the run is over."""
        super().set_progress(progress, temperature=temperature)
        if self.config.anneal_clip:
            fill(self.clip, self.config.clip * (1.0 - progress))

    def update(self, rollout: Transition) -> dict[str, Tensor]:
        """Learn from a rollout; return metrics, each `[member]` (and `probs` `[member, batch, group, choice]`)."""
        data, orders, explained = self._rows(rollout)
        metrics = self._learn_all(data, orders) if self.config.target_kl is None else self._learn_until(data, orders)
        metrics["train/explained_variance"] = explained
        self.perception.merge(rollout)
        return metrics

    def loss(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " member"], dict[str, Tensor]]:
        """Return the loss of a minibatch `[member, batch, ...]` (equation 9, with its sign turned) and metrics."""
        config, mask = self.config, self.layout.merge_mask(batch.get("mask"))
        policy = CategoricalPolicy(self.logits(batch["observation"]), mask)
        behaviour = CategoricalPolicy(batch["logits"], mask)
        advantage = self.advantages(batch)
        ratio = (policy.log_prob(batch["action"]) - behaviour.log_prob(batch["action"])).exp()
        clipped = ratio.clamp(1.0 - self.clip, 1.0 + self.clip)
        policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean(1)

        value = self.value(batch["observation"])
        if config.value_clip is None:
            fitted = value
        else:
            # As stable-baselines3; OpenAI's baselines take the larger of this error and the unclipped one.
            fitted = batch["value"] + (value - batch["value"]).clamp(-config.value_clip, config.value_clip)
        value_loss = (fitted - batch["target"]).square().mean(1)

        entropy = policy.entropy().mean(1)
        loss = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
        with torch.no_grad():
            metrics = {
                "train/policy_loss": policy_loss.detach(),
                "train/critic_loss": 0.5 * value_loss.detach(),
                "train/value": value.detach().mean(1),
                "policy/entropy": entropy.detach(),
                "policy/kl": behaviour.kl(policy).mean(1),
                "policy/clip_fraction": ((ratio - 1.0).abs() > self.clip).float().mean(1),
                "policy/probs": policy.probs.detach(),
            }
        return loss, metrics

    def _rows(self, rollout: Transition) -> tuple[dict[str, Tensor], Tensor, Float[Tensor, " member"]]:
        """Return what is learned from a rollout in rows, see `batch`, their `orders`, and the explained variance."""
        data = self.batch(self.perception.normalised(rollout), trace=across(self.config.trace, 1))
        return data, self.orders(data["target"]), explained_variance(data["value"], data["target"])

    def orders(self, target: Float[Tensor, "member row"]) -> Int[Tensor, "minibatch member row"]:
        """Return which rows are in each minibatch, of all passes; in `_rows`, and compiled with it."""
        config = self.config
        return minibatches(self.streams, target.shape[1], config.minibatches, passes=config.epochs)

    def _learn(self, data: dict[str, Tensor], rows: Int[Tensor, "member row"]) -> dict[str, Tensor]:
        """Make one optimiser step on some of the rows."""
        return self._step(take(data, rows))

    def _learn_until(self, data: dict[str, Tensor], orders: Int[Tensor, "minibatch member row"]) -> dict[str, Tensor]:
        """Make an optimiser step on each minibatch, of the members that have not moved too far yet."""
        assert self.config.target_kl is not None
        active = torch.ones(self.num_members, dtype=torch.bool, device=self.flat.device)
        metrics: dict[str, Tensor] = {}
        for rows in orders.unbind():
            loss, metrics = self.loss(take(data, rows))
            metrics["policy/kl"] = self.group.mean(metrics["policy/kl"])
            active = active & (metrics["policy/kl"] <= 1.5 * self.config.target_kl)
            metrics["gradient/norm"] = self._descend_where(active, loss)
        return metrics

    def _descend_where(self, active: Bool[Tensor, " member"], loss: Float[Tensor, " member"]) -> Tensor:
        """Make a step of the members that are `active`; return the norms of the gradients.

        The others' parameters and moments stay, rather than their gradients be zero: momentum would move them on. The
        optimiser's count of steps, of which its bias correction depends, goes on for all.
        """
        state: dict[str, Any] = self.optimizer.state[self.flat]
        before = {name: each.clone() for name, each in state.items() if each.dim() == 2}
        parameters = self.flat.detach().clone()
        norm = self.descend(loss)
        keep = ~active.unsqueeze(1)
        with torch.no_grad():
            self.flat.copy_(torch.where(keep, parameters, self.flat))
            for name, each in state.items():
                if each.dim() == 2:  # before the first step there is no state: it begins at zero
                    each.copy_(torch.where(keep, before.get(name, torch.zeros_like(each)), each))
        return norm
