"""`reinforce`: the score function on Monte-Carlo returns, with a learned value of the state as baseline.

One step after every long rollout: up log π(a_t | s_t) by G_t − v(s_t), and v(s_t) towards G_t, where G_t is the
discounted sum of the rewards that followed.

A rollout has a fixed length, so its end cuts episodes, whose G_t is then not known. By default (`partial bootstrap`)
the return goes on with the baseline's value of the last state, as in `a2c` (Sutton & Barto would call that
actor-critic); with rollouts longer than 1 / (1 − γ) few returns feel it. `partial drop` never bootstraps: steps whose
episode has not ended in the rollout do not count, and an episode that a time limit cut is complete. Dropping prefers
short episodes, which biases what is learned wherever the length depends on the action; rollouts should then be several
times as long as episodes, and a task that never ends teaches nothing.

Reference: Williams 1992, "Simple statistical gradient-following algorithms"; Sutton & Barto 2018, equations 13.8
(without baseline) and 13.11 (with one, and the algorithm below it). Differs: the average over a batch of steps in place
of a step each; without the factor γ^t, as in nearly all implementations; advantages normalised and rewards scaled;
returns of cut episodes as above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.member_settings import across
from gumbelrl.agents.returns import lambda_returns
from gumbelrl.agents.rollout import Transition
from gumbelrl.agents.score_function import (
    ScoreFunctionAgent,
    ScoreFunctionConfig,
    batch_of,
    explained_variance,
)
from gumbelrl.policies import CategoricalPolicy

PARTIAL = ("bootstrap", "drop")


@dataclass(frozen=True)
class ReinforceConfig(ScoreFunctionConfig):
    """Settings of REINFORCE, beside those of every score-function agent.

    Attributes:
        rollout_steps: steps of each environment between updates; should cover whole episodes.
        partial: what becomes of an episode that the end of the rollout cuts: `bootstrap` goes on with the baseline's
            value, `drop` leaves it out and never bootstraps.
        baseline: subtract the learned value; without it only the returns' mean is, by `normalise_advantages`.
    """

    num_envs: int = 8
    rollout_steps: int = 128
    learning_rate: float = 1e-2
    partial: Literal["bootstrap", "drop"] = "bootstrap"
    baseline: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.partial not in PARTIAL:
            raise RunError(f"unknown partial {self.partial!r}; choose one of {', '.join(PARTIAL)}")


class Reinforce(ScoreFunctionAgent[ReinforceConfig]):
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
        return self.returns(self.perception.normalised(rollout))

    def returns(self, rollout: Transition) -> dict[str, Tensor]:
        """Return what the loss needs of a rollout, each `[member, batch, ...]`; `weight` is 0 for steps left out."""
        drop = self.config.partial == "drop"
        v_t, v_tp1 = self.values(rollout)
        target = lambda_returns(
            rollout.reward * across(self.config.reward_scale, 1),
            torch.zeros_like(v_tp1) if drop else v_tp1,
            rollout.terminated,
            rollout.truncated,
            discount=across(self.config.discount, 1),
            trace=1.0,
        )
        finished = rollout.terminated | rollout.truncated
        weight = ends_within(finished) if drop else torch.ones_like(finished)
        advantage = target - v_t if self.config.baseline else target
        return batch_of(rollout, value=v_t, advantage=advantage, target=target, weight=weight.to(target.dtype))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " member"], dict[str, Tensor]]:
        """Return the loss of a batch `[member, batch, ...]` and metrics."""
        config, weight = self.config, batch["weight"]
        count = self.group.mean(weight.sum(1, keepdim=True))  # so that the mean over processes is that over all steps
        share = weight / count.clamp_min(1.0 / self.group.size)  # all zero where no episode ended
        policy = CategoricalPolicy(self.logits(batch["observation"]), self.layout.merge_mask(batch.get("mask")))
        policy_loss = -(share * self.advantages(batch) * policy.log_prob(batch["action"])).sum(1)
        value = self.value(batch["observation"])
        value_loss = (share * (value - batch["target"]).square()).sum(1)
        entropy = policy.entropy()
        loss = policy_loss + config.value_coefficient * value_loss
        loss = loss - config.entropy_coefficient * (share * entropy).sum(1)
        with torch.no_grad():
            metrics = {
                "train/policy_loss": policy_loss.detach(),
                "train/critic_loss": 0.5 * value_loss.detach(),
                "train/value": value.detach().mean(1),
                "train/complete": weight.mean(1),
                "policy/entropy": entropy.detach().mean(1),
                "policy/probs": policy.probs.detach(),
            }
        return loss, metrics


def ends_within(finished: Bool[Tensor, "time *batch"]) -> Bool[Tensor, "time *batch"]:
    """Return which steps belong to an episode that ends in the rollout, at their own step or later."""
    return finished.flip(0).to(torch.uint8).cummax(0).values.flip(0).bool()
