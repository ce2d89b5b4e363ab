"""What `reinforce`, `a2c` and `ppo` share: the score function on returns, with a learned value of the state.

They climb E[Σ_t Ψ_t log π(a_t | s_t)], with Ψ_t an advantage counted from rewards (the policy gradient theorem, Sutton
& Barto 2018, equations 13.5 and 13.10). No gradient passes the sampled action, so they take no estimator, no critic of
actions and no temperature. Actor and value function are separate networks in one flat parameter, with one optimiser.

Rewards are scaled to .05 by default, as for `actor-critic`: a value function has to travel to returns of a hundred or
more in steps whose length the optimiser fixes, and until it has arrived it is no baseline.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.member_settings import across, fill, rate_of_rows
from gumbelrl.agents.networks import ACTIVATIONS, FlatParameters
from gumbelrl.agents.optimisers import Adam, Optimiser, RMSprop
from gumbelrl.agents.perception.normalisation import ObservationNormaliser
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.perception.torsos import FEATURE_TORSOS, make_torso
from gumbelrl.agents.returns import generalised_advantages
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout, CategoricalPolicy
from gumbelrl.policies.temperature import Constant, Schedule
from gumbelrl.random import RandomStreams, derive_seed

OPTIMIZERS = ("adam", "rmsprop")
OPTIMIZER_EPSILON = 1e-5  # of the published implementations of A2C and PPO, instead of torch's 1e-8
UNUSED_TEMPERATURE = Constant(1.0)


@dataclass(frozen=True)
class ScoreFunctionConfig:
    """Settings that every score-function agent has.

    Attributes:
        num_envs: environments of each member.
        rollout_steps: steps of each environment between updates.
        optimizer: adam, or rmsprop (decay .99); both with ε = 1e-5.
        learning_rate: of the optimiser, for actor and value function.
        anneal: bring the learning rate linearly to zero over the run.
        discount: discount factor γ.
        reward_scale: rewards are multiplied by this before learning; reported returns are not.
        normalise_advantages: give each member's advantages mean 0 and standard deviation 1 in every batch.
        entropy_coefficient: weight of the policy's entropy, in nats, in what the actor climbs.
        value_coefficient: weight of the value function's mean squared error.
        max_grad_norm: gradients of each member, actor and value together, are scaled down to this norm.
        hidden: units of each hidden layer, of actor and value function.
        activation: of the hidden layers.
        torso: `mlp`; `conv` for images; `auto` is conv where observations are images, mlp elsewhere.
        normalise_observations: give observations mean 0 and variance 1, by the statistics of each member's own.
    """

    num_envs: int = 16
    rollout_steps: int = 32
    optimizer: Literal["adam", "rmsprop"] = "adam"
    learning_rate: float = 1e-3
    anneal: bool = True
    discount: float = 0.99
    reward_scale: float = 0.05
    normalise_advantages: bool = True
    entropy_coefficient: float = 0.0
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "silu", "relu"] = "tanh"
    torso: Literal["auto", "mlp", "conv"] = "auto"
    normalise_observations: bool = False

    per_member: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "discount", "reward_scale", "entropy_coefficient", "value_coefficient", "max_grad_norm"),
    )
    diagnostics_interval: ClassVar[int] = 0  # there is no estimator to measure

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_steps"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "reward_scale", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise RunError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("entropy_coefficient", "value_coefficient"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RunError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        if not 0 <= self.discount <= 1:
            raise RunError(f"discount must be between 0 and 1, got {self.discount}")
        for name, known in (("optimizer", OPTIMIZERS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise RunError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(known)}")
        choose("torso", self.torso, FEATURE_TORSOS)
        if not self.hidden or min(self.hidden) < 1:
            raise RunError(f"hidden must name at least one layer of at least one unit, got {self.hidden}")


Config = TypeVar("Config", bound=ScoreFunctionConfig)


class ScoreFunctionAgent(Generic[Config]):
    """M members that learn side by side; a subclass says how, in `update`.

    Weights start orthogonal, scaled by √2 in the hidden layers, .01 in the actor's last, 1 in the value function's.

    Args:
        config: settings, the same for all members, but for what `vary` made different.
        layout: the action space.
        num_features: length of an observation vector.
        seeds: one a member; decides its initial weights and all its noise.
        estimator: not used: every agent is made with it, with a critic and with a temperature.
        critic: not used.
        temperature: not used.
        observation_space: of one environment, for torsos that see the shape of an observation.
        device: where everything lives.
        group: the processes that have the environments between them; `config` is of this one's.
    """

    def __init__(
        self,
        config: Config,
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
        self.config, self.layout, self.num_members, self.group = config, layout, len(seeds), group
        self.streams = RandomStreams([derive_seed(seed, "agent") for seed in seeds], device=device)
        network: dict[str, Any] = {"hidden": config.hidden, "activation": config.activation, "layer_norm": False}
        network |= {"torso": config.torso, "space": observation_space, "normalised": config.normalise_observations}
        self.perception = Perception(
            ObservationNormaliser(len(seeds), num_features, device=device, group=group)
            if config.normalise_observations
            else None
        )
        num_logits = layout.num_groups * layout.num_choices
        self.actor = make_torso(self.streams, num_features, num_logits, last_gain=0.01, **network)
        self.value_network = make_torso(self.streams, num_features, 1, last_gain=1.0, **network)
        self.streams.divide(group.rank, group.size)  # all have drawn the same initial weights
        # On the device, so that a step that was recorded once follows the schedule.
        self.learning_rate = torch.as_tensor(rate_of_rows(config.learning_rate), device=device)
        self.make_optimizer()

    def make_optimizer(self) -> None:
        """Gather the networks' parameters, as they are, in one flat tensor with a fresh optimiser."""
        self.parameters = FlatParameters([self.actor, self.value_network], num_members=self.num_members)
        self.flat = self.parameters.flat
        optimiser = Adam if self.config.optimizer == "adam" else RMSprop
        self.optimizer: Optimiser = optimiser([self.flat], lr=self.learning_rate, eps=OPTIMIZER_EPSILON)

    # Acting ---------------------------------------------------------------------------------------------------------

    def logits(self, observation: Float[Tensor, "member batch feature"]) -> Float[Tensor, "member batch group choice"]:
        return self.actor(observation).unflatten(-1, (self.layout.num_groups, self.layout.num_choices))

    def policy(self, observation: Tensor, mask: Bool[Tensor, "member batch group choice"] | None) -> CategoricalPolicy:
        return CategoricalPolicy(self.logits(observation), self.layout.merge_mask(mask))

    def value(self, observation: Float[Tensor, "member batch feature"]) -> Float[Tensor, "member batch"]:
        """Return what following the policy from a state is worth."""
        return self.value_network(observation).squeeze(-1)

    def rollout_noise(self) -> Float[Tensor, "time member env group choice"]:
        """Return the Gumbel noise of a whole rollout: one draw instead of one a step."""
        config, layout = self.config, self.layout
        shape = (config.rollout_steps, config.num_envs, layout.num_groups, layout.num_choices)
        return -torch.log(self.streams.exponential(*shape, divided=1)).transpose(0, 1)

    def set_progress(self, progress: float, *, temperature: float | Tensor) -> None:
        """Set the learning rate by how much of the run is over; there is no temperature."""
        if self.config.anneal:
            fill(self.learning_rate, rate_of_rows(self.config.learning_rate, share=1.0 - progress))

    # Learning -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def values(self, rollout: Transition) -> tuple[Float[Tensor, "time member env"], Float[Tensor, "time member env"]]:
        """Return the values of the states that a rollout's steps were taken in, and of those they led to."""
        time = rollout.reward.shape[0]
        v_t, v_tp1 = (
            self.value(fold_time(observation)).unflatten(1, (time, -1)).transpose(0, 1)
            for observation in (rollout.observation, rollout.final_observation)
        )
        return v_t, v_tp1

    def batch(self, rollout: Transition, *, trace: float | Tensor) -> dict[str, Tensor]:
        """Return what a loss needs of a rollout, with generalised advantages, each `[member, batch, ...]`."""
        v_t, v_tp1 = self.values(rollout)
        advantage = generalised_advantages(
            rollout.reward * across(self.config.reward_scale, 1),
            v_t,
            v_tp1,
            rollout.terminated,
            rollout.truncated,
            discount=across(self.config.discount, 1),
            trace=trace,
        )
        return batch_of(rollout, value=v_t, advantage=advantage, target=advantage + v_t)

    def advantages(self, batch: dict[str, Tensor]) -> Float[Tensor, "member batch"]:
        """Return the advantages of a batch, normalised if the settings say so."""
        if not self.config.normalise_advantages:
            return batch["advantage"]
        return normalise(batch["advantage"], batch.get("weight"), group=self.group)

    @abstractmethod
    def loss(self, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " member"], dict[str, Tensor]]:
        """Return the loss of a batch `[member, batch, ...]` and metrics."""

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make one optimiser step on a batch `[member, batch, ...]`; return metrics."""
        loss, metrics = self.loss(batch)
        return metrics | {"gradient/norm": self.descend(loss)}

    def descend(self, loss: Float[Tensor, " member"]) -> Float[Tensor, " member"]:
        """Make one optimiser step on each member's loss; return the norms of the gradients before they are clipped."""
        # Summed, not averaged: each member's gradient is then what it would be alone.
        gradient = self.group.mean(self.parameters.gradient(loss.sum()))
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient.mul_((across(self.config.max_grad_norm, 1) / (norm + 1e-6)).clamp_max(1.0))  # torch's clip_grad_norm_
        self.flat.grad = gradient
        self.optimizer.step()
        return norm.squeeze(1)

    def diagnose(self, rollout: Transition) -> dict[str, Tensor]:
        """Return nothing: there is no estimator to measure."""
        return {}

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "parameters": self.flat.detach(),
            "optimizer": dict(self.optimizer.state[self.flat]),
            "streams": self.streams.state_dict(),
            "perception": self.perception.saved(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.flat.copy_(state["parameters"])
        self.optimizer.state[self.flat] = {
            name: value.to(self.flat.device) for name, value in state["optimizer"].items()
        }
        self.streams.load_state_dict(state["streams"])
        self.perception.restore(state.get("perception", {}))


def fold_time(column: Tensor) -> Tensor:
    """`[time, member, env, ...]` -> `[member, time·env, ...]`."""
    return column.transpose(0, 1).flatten(1, 2)


def batch_of(rollout: Transition, **more: Tensor) -> dict[str, Tensor]:
    """Return the columns of a rollout that a loss needs, and `more` of them, each `[member, time·env, ...]`."""
    columns = {"observation": rollout.observation, "logits": rollout.logits, "action": rollout.action, **more}
    if rollout.mask is not None:
        columns["mask"] = rollout.mask
    return {name: fold_time(column) for name, column in columns.items()}


def normalise(
    advantage: Float[Tensor, "member batch"],
    weight: Float[Tensor, "member batch"] | None = None,
    *,
    group: Group = ALONE,
) -> Float[Tensor, "member batch"]:
    """Return advantages with each member's own mean 0 and standard deviation 1; as they are, where there is but one.

    Args:
        weight: 1 for those that count, 0 for the others; None where all do.
        group: the processes whose advantages are one batch, of which this one's are returned.
    """
    if weight is None:
        (whole,) = group.joined(advantage, dim=1)
        if whole.shape[1] == 1:
            return advantage
        return (advantage - whole.mean(1, keepdim=True)) / (whole.std(1, keepdim=True) + 1e-8)
    whole, weight = group.joined(advantage, weight, dim=1)
    if whole.shape[1] == 1:
        return advantage
    count = weight.sum(1, keepdim=True)
    mean = (weight * whole).sum(1, keepdim=True) / count.clamp_min(1.0)
    variance = (weight * (whole - mean).square()).sum(1, keepdim=True) / (count - 1.0).clamp_min(1.0)
    return (advantage - mean) / (variance.sqrt() + 1e-8)


def explained_variance(
    value: Float[Tensor, "member batch"], target: Float[Tensor, "member batch"]
) -> Float[Tensor, " member"]:
    """Return 1 − Var(target − value) / Var(target): 1 is a perfect value function, 0 is no better than a constant."""
    return 1.0 - (target - value).var(1, correction=0) / target.var(1, correction=0)
