"""What can be set of `ddpg`, `td3` and `sac`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.estimator_path import BASELINES
from gumbelrl.agents.networks import ACTIVATIONS
from gumbelrl.agents.perception.torsos import FEATURE_TORSOS


@dataclass(frozen=True)
class OffPolicyConfig:
    """Settings that every off-policy agent has.

    Attributes:
        num_envs: environments of each member.
        rollout_steps: steps of each environment between updates.
        updates_per_iteration: gradient steps after each rollout.
        batch_size: transitions of each gradient step.
        learning_starts: steps of each member before the first gradient step.
        replay_capacity: transitions that each member keeps.
        return_steps: n of the n-step returns.
        discount: discount factor γ.
        reward_scale: rewards are multiplied by this before learning; reported returns are not.
        actor_learning_rate: of Adam, for the actor.
        critic_learning_rate: of Adam, for the critics.
        anneal: bring both learning rates linearly to zero over the run.
        polyak: share of the networks that the targets take over in each update.
        target_entropy: mean entropy that the policy is held at, as a fraction of the largest possible; 0 for no bonus.
        entropy_coefficient: where the coefficient of the entropy bonus starts.
        coefficient_rate: step of that coefficient, in nats an update, when the entropy is wrong by its largest value.
        logit_penalty: weight of the mean square logit in the actor's loss.
        logit_bound: logits are squashed as bound · tanh(logit / bound), where in a group of K choices ½ log(K − 1) is
            added to the bound: the odds of the most probable choice against all others stay below exp(2 logit_bound),
            whatever K. None for no bound.
        epsilon: probability of a uniformly random action, at first; actions are sampled from the policy otherwise.
        final_epsilon: the same at the end of the run; it changes in a straight line.
        hidden: units of each hidden layer, of actor and critics.
        activation: of the hidden layers.
        layer_norm: normalise hidden layers before their activation.
        torso: `mlp`; `conv` for images; `auto` is conv where observations are images, mlp elsewhere.
        normalise_observations: give observations mean 0 and variance 1, by the statistics of each member's own so far;
            the replay keeps them as they were.
        baseline: of `reinforce`; see there. `moving-mean` is an exponential mean of each member's values.
        num_samples: of the estimator, for each state; its own default if not given.
        diagnostics_interval: rollouts between measurements of the estimator's bias and variance; 0 for none.
    """

    num_envs: int = 16
    rollout_steps: int = 1
    updates_per_iteration: int = 4
    batch_size: int = 128
    learning_starts: int = 1000
    replay_capacity: int = 10_000
    return_steps: int = 3
    discount: float = 0.99
    reward_scale: float = 1.0
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 2e-3
    anneal: bool = True
    polyak: float = 0.05
    target_entropy: float = 0.15
    entropy_coefficient: float = 0.2
    coefficient_rate: float = 0.01
    logit_penalty: float = 0.0
    logit_bound: float | None = None
    epsilon: float = 0.0
    final_epsilon: float = 0.0
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["silu", "relu", "tanh"] = "silu"
    layer_norm: bool = True
    torso: Literal["auto", "mlp", "conv"] = "auto"
    normalise_observations: bool = False
    baseline: Literal["none", "mean-action", "self-critical", "moving-mean"] = "mean-action"
    num_samples: int | None = None
    diagnostics_interval: int = 1024

    per_member: ClassVar[tuple[str, ...]] = (
        *("actor_learning_rate", "critic_learning_rate", "discount", "reward_scale", "polyak", "target_entropy"),
        *("entropy_coefficient", "logit_penalty", "epsilon", "final_epsilon"),
    )
    switched_off_by_zero: ClassVar[tuple[str, ...]] = ("target_entropy", "epsilon", "final_epsilon")

    def __post_init__(self) -> None:
        counts = ("num_envs", "rollout_steps", "updates_per_iteration", "batch_size", "replay_capacity", "return_steps")
        for name in counts:
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_starts", "diagnostics_interval"):
            if getattr(self, name) < 0:
                raise RunError(f"{name} must not be negative, got {getattr(self, name)}")
        rates = ("reward_scale", "actor_learning_rate", "critic_learning_rate", "entropy_coefficient", "logit_bound")
        for name in rates:
            setting = getattr(self, name)
            if setting is not None and not 0 < setting < math.inf:
                raise RunError(f"{name} must be above 0 and finite, got {setting}")
        for name in ("coefficient_rate", "logit_penalty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RunError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("discount", "polyak", "target_entropy", "epsilon", "final_epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.polyak == 0:
            raise RunError("polyak must be above 0: with 0 the targets would never learn")
        for name, known in (("baseline", BASELINES), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in known:
                raise RunError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(known)}")
        if self.num_samples is not None and self.num_samples < 1:
            raise RunError(f"num_samples must be at least 1, got {self.num_samples}")
        choose("torso", self.torso, FEATURE_TORSOS)
        if not self.hidden or min(self.hidden) < 1:
            raise RunError(f"hidden must name at least one layer of at least one unit, got {self.hidden}")
