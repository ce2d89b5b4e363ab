"""What `ddpg`, `td3` and `sac` share: replay, an ensemble of critics, an actor through an estimator, slow targets.

Each iteration writes a rollout to the replay and makes some updates. In an update the critics are fitted to

    y = R + γ^n V(s_{t+n})        R = Σ_{k<n} γ^k r_{t+k}, V = 0 where the episode terminated

and the actor climbs the critics through the estimator, on the same batch and on the critics as they were before the
update: one forward pass of the critics serves both, and one backward pass. The agents differ in V and in which critic
the actor climbs.

A policy that saturates has no gradient left, p(1 − p), and does not come back. Against that: a bonus for entropy, whose
coefficient is learned so that the mean entropy stays at a target (Haarnoja et al. 2018, arXiv:1812.05905, section 5), a
penalty on logits, and a bound on them.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gumbelrl.agents.critics import Ensemble, EnsembleValue
from gumbelrl.agents.diagnosis import DIAGNOSED_STATES, diagnose_path
from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.estimator_path import CONSTANT, EstimatorPath
from gumbelrl.agents.member_settings import across, fill, is_used, rate_of_rows, start_at
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.off_policy_config import OffPolicyConfig
from gumbelrl.agents.optimisers import Adam
from gumbelrl.agents.perception.normalisation import ObservationNormaliser
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.perception.torsos import make_torso
from gumbelrl.agents.replay import Batch, Replay
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ESTIMATORS, ActionLayout, CategoricalPolicy, Value
from gumbelrl.policies.temperature import Schedule
from gumbelrl.random import RandomStreams, derive_seed

UNIFORM = 1e9  # noise of this scale drowns any logit, but not the mask


Config = TypeVar("Config", bound=OffPolicyConfig)


class OffPolicyAgent(Generic[Config]):
    """M members that learn side by side from a replay; a subclass says what the critics are fitted to.

    Args:
        config: settings, the same for all members, but for what `vary` made different.
        layout: the action space.
        num_features: length of an observation vector.
        seeds: one a member; decides its initial weights and all its noise.
        estimator: a name in `gumbelrl.policies.ESTIMATORS`.
        critic: a name in `gumbelrl.agents.critics.CRITICS`.
        temperature: a schedule; of a learned one the agent makes the parameters.
        observation_space: of one environment, so that observations are stored as they are, and for torsos that see
            their shape; None stores floats.
        device: where everything lives.
        group: the processes that have the environments between them; `config` is of this one's, and so is the replay.

    Raises:
        RunError: the temperature is to be learned, but the estimator gives it no gradient.
    """

    num_critics: ClassVar[int] = 2
    has_target_actor: ClassVar[bool] = False

    def __init__(
        self,
        config: Config,
        *,
        layout: ActionLayout,
        num_features: int,
        seeds: Sequence[int],
        estimator: str = "gumbel",
        critic: str = "linear",
        temperature: Schedule = CONSTANT,
        observation_space: spaces.Space | None = None,
        device: torch.device | str = "cpu",
        group: Group = ALONE,
    ) -> None:
        self.config, self.layout, self.num_members, self.group = config, layout, len(seeds), group
        self.streams = RandomStreams([derive_seed(seed, "agent") for seed in seeds], device=device)
        self.diagnostic_streams = RandomStreams([derive_seed(seed, "diagnostics") for seed in seeds], device=device)
        network: dict[str, Any] = {
            "hidden": config.hidden,
            "activation": config.activation,
            "layer_norm": config.layer_norm,
            "torso": config.torso,
            "space": observation_space,
            "normalised": config.normalise_observations,
        }
        self.perception = Perception(
            ObservationNormaliser(len(seeds), num_features, device=device, group=group)
            if config.normalise_observations
            else None
        )
        num_logits = layout.num_groups * layout.num_choices
        self.actor = make_torso(self.streams, num_features, num_logits, last_gain=0.01, **network)
        critic_seeds = [derive_seed(seed, "critic", index) for seed in seeds for index in range(self.num_critics)]
        critic_streams = RandomStreams(critic_seeds, device=device)
        self.critic = Ensemble(critic, critic_streams, num_features, layout, size=self.num_critics, **network)
        self.path = EstimatorPath(
            ESTIMATORS[estimator],
            self.streams,
            layout,
            num_features,
            schedule=temperature,
            baseline=config.baseline,
            num_samples=config.num_samples,
            group=group,
        )
        self.replay = Replay(
            layout,
            capacity=config.replay_capacity,
            return_steps=config.return_steps,
            discount=across(config.discount, 1),
            space=observation_space,
            keep_probs=self.critic.critic.interpolates,
            device=device,
        )
        self._flatten()
        for streams in (self.streams, self.diagnostic_streams):  # all have drawn the same initial weights
            streams.divide(group.rank, group.size)
        self.log_entropy_coefficient = start_at(config.entropy_coefficient, self.num_members, device=device)
        differs = isinstance(config.epsilon, Tensor) or isinstance(config.final_epsilon, Tensor)
        self.epsilon = torch.zeros((self.num_members, 1, 1) if differs else (), device=device)
        self._set_epsilon(0.0)
        self.bound: Float[Tensor, "group 1"] | None = None
        if config.logit_bound is not None:
            bounds = [config.logit_bound + 0.5 * math.log(max(count - 1, 1)) for count in layout.choice_counts]
            self.bound = torch.tensor(bounds, device=device).unsqueeze(1)
        self.num_steps_seen = self.num_updates = 0

    def _flatten(self) -> None:
        """Copy the networks that have targets, and gather the parameters of each part in one flat tensor."""
        members, critics = self.num_members, self.num_members * self.num_critics
        self.target_critic = copy.deepcopy(self.critic)
        self.critic_parameters = FlatParameters([self.critic], num_members=critics)
        self.target_critic_parameters = FlatParameters([self.target_critic], num_members=critics)
        if self.has_target_actor:
            self.target_actor = copy.deepcopy(self.actor)
            self.target_actor_parameters = FlatParameters([self.target_actor], num_members=members)
        self.actor_parameters = FlatParameters([self.actor, self.path], num_members=members)
        # On the device, so that a step that was recorded once follows the schedule.
        flats = (self.actor_parameters.flat, self.critic_parameters.flat)
        groups = [
            {"params": [flat], "lr": torch.as_tensor(rate, device=flat.device)}
            for flat, rate in zip(flats, self._learning_rates(), strict=True)
        ]
        self.optimizer = Adam(groups)

    def _learning_rates(self, share: float = 1.0) -> tuple[float | Tensor, float | Tensor]:
        """Return a share of the actor's and the critics' rates, for the rows of their parameters."""
        return (
            rate_of_rows(self.config.actor_learning_rate, share=share),
            rate_of_rows(self.config.critic_learning_rate, share=share, repeat=self.num_critics),
        )

    # Acting ---------------------------------------------------------------------------------------------------------

    def _policy(self, actor: nn.Module, observation: Tensor, mask: Tensor | None) -> CategoricalPolicy:
        logits = actor(observation).unflatten(-1, (self.layout.num_groups, self.layout.num_choices))
        if self.bound is not None:
            logits = self.bound * torch.tanh(logits / self.bound)
        return CategoricalPolicy(logits, self.layout.merge_mask(mask))

    def policy(self, observation: Tensor, mask: Bool[Tensor, "member batch group choice"] | None) -> CategoricalPolicy:
        return self._policy(self.actor, observation, mask)

    def target_policy(self, observation: Tensor, mask: Tensor | None) -> CategoricalPolicy:
        """Return the policy of the slow copy of the actor, or of the actor where there is none."""
        return self._policy(self.target_actor if self.has_target_actor else self.actor, observation, mask)

    def rollout_noise(self) -> Float[Tensor, "time member env group choice"]:
        """Return Gumbel noise; with probability ε so large that the action is uniform over the valid ones."""
        config, layout = self.config, self.layout
        shape = (config.rollout_steps, config.num_envs, layout.num_groups, layout.num_choices)
        noise = -torch.log(self.streams.exponential(*shape, divided=1))
        if is_used(config.epsilon) or is_used(config.final_epsilon):
            random = self.streams.uniform(*shape[:2], divided=1) < self.epsilon
            noise = torch.where(random[..., None, None], UNIFORM * noise, noise)
        return noise.transpose(0, 1)

    def set_progress(self, progress: float, *, temperature: float | Tensor) -> None:
        """Set what depends on how much of the run is over: the temperature, ε and the learning rates."""
        self.path.scheduled_temperature = across(temperature, 3)
        if self.config.anneal:
            for group, rate in zip(self.optimizer.param_groups, self._learning_rates(1.0 - progress), strict=True):
                fill(group["lr"], rate)
        self._set_epsilon(progress)

    def _set_epsilon(self, progress: float) -> None:
        first, last = across(self.config.epsilon, 2), across(self.config.final_epsilon, 2)
        if is_used(first) or is_used(last):
            fill(self.epsilon, first + (last - first) * progress)

    # Learning -------------------------------------------------------------------------------------------------------

    def update(self, rollout: Transition) -> dict[str, Tensor]:
        """Store a rollout and, once there are enough steps, learn; return metrics, each `[member]`."""
        config = self.config
        self.replay.add(rollout)
        self.num_steps_seen += rollout.reward.shape[0] * rollout.reward.shape[2] * self.group.size
        metrics: dict[str, Tensor] = {}
        if self.num_steps_seen >= config.learning_starts and self.replay.num_rows:
            metrics = self.learn_from_replay()
        self.perception.merge(rollout)
        return metrics if "policy/probs" in metrics else self._metrics_of(rollout) | metrics

    def learn_from_replay(self) -> dict[str, Tensor]:
        """Make the updates of an iteration; return metrics, each of the last update that had it, see `learn`."""
        metrics: dict[str, Tensor] = {}
        for columns in self._draw():
            metrics |= self.learn(Batch(**columns))
        return metrics

    def _draw(self) -> list[dict[str, Tensor]]:
        """Return the columns of each batch of an iteration, with observations as the networks see them."""
        config = self.config
        drawn = self.replay.sample(config.updates_per_iteration * config.batch_size, generator=self.streams)
        return [batch.columns() for batch in self._normalised(drawn).split(config.batch_size)]

    def _normalised(self, drawn: Batch) -> Batch:
        """Return transitions as the networks see them: by the statistics of now, not of when they were stored."""
        if (normaliser := self.perception.normaliser) is None:
            return drawn
        return replace(
            drawn,
            observation=normaliser(drawn.observation),
            next_observation=normaliser(drawn.next_observation),
        )

    def learn(self, batch: Batch) -> dict[str, Tensor]:
        """Make one update on observations as the networks see them; return metrics.

        Each is `[member]`, and `policy/probs` `[member, batch, group, choice]`.
        """
        self.num_updates += 1
        return self._step(batch, climb=self.actor_is_due())

    def _step(self, batch: Batch, *, climb: bool) -> dict[str, Tensor]:
        """Make one optimiser step on a batch; the actor only stays where it is unless `climb`."""
        target = batch.reward * across(self.config.reward_scale, 1) + batch.discount * self.next_value(batch)
        value = self.critic(batch.observation)
        action = batch.action
        if batch.probs is not None:
            weight = self.streams.uniform(target.shape[1])
            action = self.critic.critic.training_action(action, batch.probs, weight)
        fitted = value.all(action)
        critic_loss = 0.5 * (fitted - target.unsqueeze(1)).square().mean(2).sum(1)
        metrics = {"train/critic_loss": critic_loss.detach(), "train/value": fitted.detach().mean((1, 2))}
        loss, parts, entropies = critic_loss, [self.critic_parameters], list[Tensor]()
        if climb:
            actor_loss, found = self._actor_loss(batch, value)
            metrics |= found
            loss, parts = loss + actor_loss, [self.critic_parameters, self.actor_parameters]
            entropies = [found["policy/entropy"], *self._largest_entropy(batch.mask)]
        # Summed, not averaged: each member's gradient is then what it would be alone.
        gradients = self.group.means(*FlatParameters.gradients(parts, loss.sum()), *entropies)
        self.critic_parameters.flat.grad = gradients[0]
        self.actor_parameters.flat.grad = gradients[1] if climb else None
        self.optimizer.step()
        if climb:
            metrics["gradient/norm"] = torch.linalg.vector_norm(gradients[1], dim=1)
            if is_used(self.config.target_entropy):
                self._adapt_entropy_coefficient(*gradients[2:])
            self._follow()
        return metrics

    def _actor_loss(self, batch: Batch, value: EnsembleValue) -> tuple[Float[Tensor, " member"], dict[str, Tensor]]:
        config = self.config
        policy = self.policy(batch.observation, batch.mask)
        estimate, temperature = self.path(
            batch.observation, policy.logits, self.climbed_value(value, policy), policy.mask, self.streams
        )
        entropy, objective = policy.entropy(), estimate.objective
        coefficient = self.log_entropy_coefficient.exp()
        if is_used(config.target_entropy):
            objective = objective + coefficient.unsqueeze(1) * entropy
        if is_used(config.logit_penalty):
            valid = policy.logits if policy.mask is None else torch.where(policy.mask, policy.logits, 0.0)
            objective = objective - across(config.logit_penalty, 1) * valid.square().mean((-2, -1))
        if estimate.auxiliary is not None:
            objective = objective - estimate.auxiliary
        return -objective.mean(1), {
            "policy/entropy": entropy.detach().mean(1),
            "policy/temperature": temperature,
            "policy/entropy_coefficient": coefficient,
            "policy/probs": policy.probs.detach(),
        }

    def _largest_entropy(self, mask: Tensor | None) -> list[Float[Tensor, " member"]]:
        """Return the mean entropy of uniformly random actions in a batch, where that depends on the batch."""
        valid = None if mask is None else self.layout.merge_mask(mask)
        return [] if valid is None else [valid.sum(-1).log().sum(-1).mean(1)]

    def _adapt_entropy_coefficient(self, mean_entropy: Float[Tensor, " member"], masked: Tensor | None = None) -> None:
        """Raise the coefficient where the entropy is below its target, lower it where it is above."""
        largest: Tensor | float = max(sum(math.log(count) for count in self.layout.choice_counts), 1e-6)
        if masked is not None:
            largest = masked.clamp_min(1e-6)
        error = self.config.target_entropy - mean_entropy / largest
        self.log_entropy_coefficient.add_(error, alpha=self.config.coefficient_rate)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the targets towards the networks."""
        self.target_critic_parameters.flat.lerp_(
            self.critic_parameters.flat, rate_of_rows(self.config.polyak, repeat=self.num_critics)
        )
        if self.has_target_actor:
            target = self.target_actor_parameters.flat
            target.lerp_(self.actor_parameters.flat[:, : target.shape[1]], across(self.config.polyak, 1))

    @abstractmethod
    def next_value(self, batch: Batch) -> Float[Tensor, "member batch"]:
        """Return V(s_{t+n}), without gradient."""

    def climbed_value(self, value: EnsembleValue, policy: CategoricalPolicy) -> Value:
        """Return the value function that the actor climbs."""
        return value.first()

    def actor_is_due(self) -> bool:
        """Say whether this update moves the actor and the targets."""
        return True

    def _metrics_of(self, rollout: Transition) -> dict[str, Tensor]:
        """Return what can be said without having learned."""
        policy = CategoricalPolicy(rollout.logits.transpose(0, 1).flatten(1, 2))
        entropy = policy.entropy().mean(1)
        nothing = torch.full_like(entropy, math.nan)
        return {
            "train/critic_loss": nothing,
            "train/value": nothing,
            "policy/entropy": entropy,
            "policy/temperature": nothing,
            "policy/entropy_coefficient": self.log_entropy_coefficient.exp(),
            "gradient/norm": nothing,
            "policy/probs": policy.probs,
        }

    def diagnose(self, rollout: Transition) -> dict[str, Tensor]:
        """Measure the estimator on the rollout's last states with the critics as they are; metrics, each `[member]`.

        It draws from streams of its own, so that measuring does not change what is learned.
        """
        observation = rollout.observation.transpose(0, 1).flatten(1, 2)[:, -DIAGNOSED_STATES:]
        mask = None if rollout.mask is None else rollout.mask.transpose(0, 1).flatten(1, 2)[:, -DIAGNOSED_STATES:]
        observation, _ = self.perception(observation, None)
        policy, value = self.policy(observation, mask), self.critic(observation)
        return diagnose_path(
            self.path, observation, policy, self.climbed_value(value, policy), generator=self.diagnostic_streams
        )

    # State ----------------------------------------------------------------------------------------------------------

    def _parts(self) -> dict[str, FlatParameters]:
        parts = {
            "actor": self.actor_parameters,
            "critic": self.critic_parameters,
            "target_critic": self.target_critic_parameters,
        }
        return parts | ({"target_actor": self.target_actor_parameters} if self.has_target_actor else {})

    def state_dict(self) -> dict[str, Any]:
        parts = self._parts()
        return {
            "parameters": {name: part.flat.detach() for name, part in parts.items()},
            "optimizer": {name: dict(self.optimizer.state[parts[name].flat]) for name in ("actor", "critic")},
            "log_entropy_coefficient": self.log_entropy_coefficient,
            "epsilon": self.epsilon,
            "streams": self.streams.state_dict(),
            "diagnostic_streams": self.diagnostic_streams.state_dict(),
            "path": {"moving_mean": self.path.moving_mean},
            "replay": self.replay.state_dict(),
            "num_steps_seen": self.num_steps_seen,
            "num_updates": self.num_updates,
            "perception": self.perception.saved(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = self._parts()
        for name, part in parts.items():
            part.flat.copy_(state["parameters"][name])
        for name, moments in state["optimizer"].items():
            flat = parts[name].flat
            self.optimizer.state[flat] = {key: value.to(flat.device) for key, value in moments.items()}
        self.log_entropy_coefficient.copy_(state["log_entropy_coefficient"])
        self.epsilon.copy_(state["epsilon"])
        self.streams.load_state_dict(state["streams"])
        self.diagnostic_streams.load_state_dict(state["diagnostic_streams"])
        self.path.moving_mean.copy_(state["path"]["moving_mean"])
        self.replay.load_state_dict(state["replay"])
        self.num_steps_seen, self.num_updates = state["num_steps_seen"], state["num_updates"]
        self.perception.restore(state.get("perception", {}))
