"""`actor-critic`: on-policy and pathwise; the critic's gradient reaches the actor through an estimator.

Many environments, short rollouts, a layer-normalised action-value critic fitted to λ-returns of the entropy-regularised
reward, an actor that climbs the critic through any estimator, an entropy coefficient learned against a target, and a
bound on the divergence from the policy that collected the rollout.

Reference: REPPO, Voelcker et al. 2025, arXiv:2507.11019. Differs: discrete actions through an estimator instead of a
reparameterised Gaussian; exact entropy and divergence instead of sampled ones; a scalar critic with a squared error
instead of a categorical one; value and policy share a minibatch and one optimiser step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.agents.critics import make_critic
from gumbelrl.agents.diagnosis import DIAGNOSED_STATES, diagnose_path
from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.estimator_path import BASELINES, CONSTANT, EstimatorPath
from gumbelrl.agents.member_settings import across, rate_of_rows, start_at
from gumbelrl.agents.networks import FlatParameters
from gumbelrl.agents.optimisers import Adam
from gumbelrl.agents.perception.normalisation import ObservationNormaliser
from gumbelrl.agents.perception.recurrent import RecurrentCore, check_memory
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.perception.torsos import TORSOS, make_torso, resolve_torso
from gumbelrl.agents.returns import lambda_returns
from gumbelrl.agents.rollout import MinibatchLearner, Transition, minibatches, take
from gumbelrl.policies import ESTIMATORS, ActionLayout, CategoricalPolicy
from gumbelrl.policies.temperature import Schedule
from gumbelrl.random import RandomStreams, derive_seed


@dataclass(frozen=True)
class ActorCriticConfig:
    """Settings of the actor-critic agent.

    Attributes:
        num_envs: environments of each member.
        rollout_steps: steps of each environment between updates.
        epochs: passes over each rollout.
        minibatches: optimiser steps of each pass.
        learning_rate: of Adam, for actor and critic.
        anneal: bring the learning rate linearly to zero over the run.
        discount: discount factor γ.
        trace: λ of the returns; 0 is one-step, 1 is Monte-Carlo.
        reward_scale: rewards are multiplied by this before learning; reported returns are not.
        target_entropy: entropy that the policy is held at, as a fraction of the largest possible.
        entropy_coefficient: where the entropy coefficient starts.
        kl_bound: largest divergence from the policy that collected the rollout, in nats a state.
        coefficient_rate: step of the entropy and divergence coefficients, in nats an update.
        max_grad_norm: gradients of each member are scaled down to this norm.
        hidden: units of each hidden layer, of actor and critic.
        torso: `mlp`; `conv` for images; `pointer`, which scores each item of an observation of items by the same
            weights; `recurrent`, which remembers; `auto` is conv where observations are images, mlp elsewhere.
        normalise_observations: give observations mean 0 and variance 1, by the statistics of each member's own.
        gate: of a recurrent torso: `sigmoid`, or discrete, as `gumbelrl.policies.gates` has them.
        gate_temperature: of the backward pass of `gumbel` gates.
        memory_size: units of a recurrent torso.
        memory_horizon: steps that its units keep a value, at most, before they have learned to; for discrete gates
            much longer than the delays to be bridged.
        baseline: of `reinforce`; see there. `moving-mean` is an exponential mean of each member's values.
        num_samples: of the estimator, for each state; its own default if not given.
        diagnostics_interval: rollouts between measurements of the estimator's bias and variance; 0 for none.
    """

    num_envs: int = 64
    rollout_steps: int = 32
    epochs: int = 4
    minibatches: int = 4
    learning_rate: float = 1e-3
    anneal: bool = False
    discount: float = 0.99
    trace: float = 0.95
    reward_scale: float = 0.05
    target_entropy: float = 0.3
    entropy_coefficient: float = 0.05
    kl_bound: float = 0.1
    coefficient_rate: float = 0.02
    max_grad_norm: float = 1.0
    hidden: tuple[int, ...] = (64, 64)
    torso: Literal["auto", "mlp", "conv", "pointer", "recurrent"] = "auto"
    normalise_observations: bool = False
    gate: Literal["sigmoid", "argmax-st", "straight-through", "gumbel"] = "gumbel"
    gate_temperature: float = 1.0
    memory_size: int = 32
    memory_horizon: int = 1000
    baseline: Literal["none", "mean-action", "self-critical", "moving-mean"] = "mean-action"
    num_samples: int | None = None
    diagnostics_interval: int = 16

    per_member: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "discount", "trace", "reward_scale", "target_entropy", "entropy_coefficient"),
        *("kl_bound", "max_grad_norm"),
    )

    def __post_init__(self) -> None:
        for name in ("num_envs", "rollout_steps", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "reward_scale", "entropy_coefficient", "kl_bound", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise RunError(f"{name} must be above 0 and finite, got {getattr(self, name)}")
        for name in ("discount", "trace", "target_entropy"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if (self.num_envs * self.rollout_steps) % self.minibatches:
            raise RunError(
                f"num_envs x rollout_steps = {self.num_envs * self.rollout_steps} must be divisible by "
                f"minibatches = {self.minibatches}"
            )
        choose("torso", self.torso, TORSOS)
        check_memory(self.gate, size=self.memory_size, horizon=self.memory_horizon, temperature=self.gate_temperature)
        if self.torso == "recurrent" and self.num_envs % self.minibatches:
            raise RunError(
                f"with a recurrent torso a minibatch is whole sequences: num_envs = {self.num_envs} must be divisible "
                f"by minibatches = {self.minibatches}"
            )
        if self.baseline not in BASELINES:
            raise RunError(f"unknown baseline {self.baseline!r}; choose one of {', '.join(BASELINES)}")
        if self.num_samples is not None and self.num_samples < 1:
            raise RunError(f"num_samples must be at least 1, got {self.num_samples}")
        if self.diagnostics_interval < 0:
            raise RunError(f"diagnostics_interval must not be negative, got {self.diagnostics_interval}")
        if not self.hidden or min(self.hidden) < 1:
            raise RunError(f"hidden must name at least one layer of at least one unit, got {self.hidden}")


class ActorCritic(MinibatchLearner):
    """M members that learn side by side; see the module's docstring.

    Args:
        config: settings, the same for all members, but for what `vary` made different.
        layout: the action space.
        num_features: length of an observation vector.
        seeds: one a member; decides its initial weights and all its noise.
        estimator: a name in `gumbelrl.policies.ESTIMATORS`.
        critic: a name in `gumbelrl.agents.critics.CRITICS`.
        temperature: a schedule; of a learned one the agent makes the parameters.
        observation_space: of one environment, for torsos that see the shape of an observation.
        device: where everything lives.
        group: the processes that have the environments between them; `config` is of this one's.

    Raises:
        RunError: the temperature is to be learned, but the estimator gives it no gradient; or the torso does not fit.
    """

    def __init__(
        self,
        config: ActorCriticConfig,
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
        self.estimator = ESTIMATORS[estimator]
        self.streams = RandomStreams([derive_seed(seed, "agent") for seed in seeds], device=device)
        num_logits = layout.num_groups * layout.num_choices
        network: dict[str, Any] = {
            "hidden": config.hidden,
            "torso": resolve_torso(config.torso, observation_space),
            "space": observation_space,
            "normalised": config.normalise_observations,
        }
        if config.torso == "pointer" and critic != "linear":
            raise RunError(f"--torso pointer gives a value for each choice: use --critic linear, not {critic}")
        self.perception = make_perception(config, self.streams, num_features, seeds, group)
        num_features = self.perception.num_features(num_features)
        self.actor = make_torso(self.streams, num_features, num_logits, last_gain=0.01, **network)
        self.critic = make_critic(critic, self.streams, num_features, layout, **network)
        self.path = EstimatorPath(
            self.estimator,
            self.streams,
            layout,
            num_features,
            schedule=temperature,
            baseline=config.baseline,
            num_samples=config.num_samples,
            group=group,
        )
        networks = [self.perception, self.actor, self.critic, self.path]
        self.parameters = FlatParameters(networks, num_members=self.num_members)
        self.flat = self.parameters.flat
        # The control variate's parameters come last. Its loss has a scale of its own, which Adam does not mind, but it
        # would decide how everything else is clipped.
        self.num_clipped = self.flat.shape[1] - self.path.num_control_parameters // self.num_members
        self.optimizer = Adam([self.flat], lr=rate_of_rows(config.learning_rate))
        start = start_at(config.entropy_coefficient, self.num_members, device=device)
        self.log_entropy_coefficient, self.log_kl_coefficient = start, torch.zeros_like(start)
        self.max_entropy = float(sum(math.log(count) for count in layout.choice_counts)) or 1.0
        self.diagnostic_streams = RandomStreams([derive_seed(seed, "diagnostics") for seed in seeds], device=device)
        for streams in (self.streams, self.diagnostic_streams):  # all have drawn the same initial weights
            streams.divide(group.rank, group.size)

    # Acting ---------------------------------------------------------------------------------------------------------

    def logits(self, features: Tensor) -> Float[Tensor, "member batch group choice"]:
        return self.actor(features).unflatten(-1, (self.layout.num_groups, self.layout.num_choices))

    def policy(self, features: Tensor, mask: Bool[Tensor, "member batch group choice"] | None) -> CategoricalPolicy:
        return CategoricalPolicy(self.logits(features), self.layout.merge_mask(mask))

    def rollout_noise(self) -> Float[Tensor, "time member env group choice"]:
        """Return the Gumbel noise of a whole rollout: one draw instead of one a step."""
        config, layout = self.config, self.layout
        shape = (config.rollout_steps, config.num_envs, layout.num_groups, layout.num_choices)
        return -torch.log(self.streams.exponential(*shape, divided=1)).transpose(0, 1)

    def set_progress(self, progress: float, *, temperature: float | Tensor) -> None:
        """Set what depends on how much of the run is over: the temperature and the learning rate."""
        self.path.scheduled_temperature = across(temperature, 3)
        if self.config.anneal:
            rate = rate_of_rows(self.config.learning_rate, share=1.0 - progress)
            self.optimizer.param_groups[0]["lr"] = rate

    # Learning -------------------------------------------------------------------------------------------------------

    def update(self, rollout: Transition) -> dict[str, Tensor]:
        """Learn from a rollout; return metrics, each `[member]` (and `probs` `[member, batch, group, choice]`)."""
        data = self._rows(rollout)
        metrics: dict[str, Tensor] = {}
        for _ in range(self.config.epochs):  # an order is drawn between steps that draw noise, here unlike in `ppo`
            metrics = self._learn_all(data, self._orders(data["target"]))
        self.perception.merge(rollout)
        return metrics

    def _rows(self, rollout: Transition) -> dict[str, Tensor]:
        """Return what is learned from a rollout in rows, see `Perception.rows`."""
        seen = self.perception.normalised(rollout)
        return self.perception.rows(seen, target=self._targets(seen))

    def _orders(self, target: Float[Tensor, "member row *time"]) -> Int[Tensor, "minibatch member row"]:
        """Return which rows are in each minibatch of a pass."""
        return minibatches(self.streams, target.shape[1], self.config.minibatches, passes=1)

    def _learn(self, data: dict[str, Tensor], rows: Int[Tensor, "member row"]) -> dict[str, Tensor]:
        """Make one optimiser step on some of the rows."""
        return self._step(self.perception.replay(take(data, rows)))

    @torch.no_grad()
    def _targets(self, rollout: Transition) -> Float[Tensor, "time member env"]:
        """Return the λ-returns of the entropy-regularised reward (REPPO, equation 5)."""
        time = rollout.reward.shape[0]

        def fold(x: Tensor) -> Tensor:  # [time, member, env, ...] -> [member, time·env, ...]
            return x.transpose(0, 1).flatten(1, 2)

        features = fold(self.perception.final_features(rollout))
        mask = None if rollout.final_mask is None else fold(rollout.final_mask)
        policy = self.policy(features, mask)
        value = self.critic(features)
        v_tp1 = self.critic.expected_value(value, policy.probs, policy.sample(generator=self.streams))
        v_tp1 = v_tp1 + self.log_entropy_coefficient.exp().unsqueeze(1) * policy.entropy()
        return lambda_returns(
            rollout.reward * across(self.config.reward_scale, 1),
            v_tp1.unflatten(1, (time, -1)).transpose(0, 1),
            rollout.terminated,
            rollout.truncated,
            discount=across(self.config.discount, 1),
            trace=across(self.config.trace, 1),
        )

    def _step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make one optimiser step on a minibatch of steps `[member, batch, ...]`, whose observations are features."""
        config, mask = self.config, self.layout.merge_mask(batch.get("mask"))
        policy = CategoricalPolicy(self.logits(batch["observation"]), mask)
        behaviour = CategoricalPolicy(batch["logits"], mask)
        value = self.critic(batch["observation"])

        weight = self.streams.uniform(batch["target"].shape[1]) if self.critic.interpolates else batch["target"]
        fitted = value(self.critic.training_action(batch["action"], behaviour.probs, weight))
        critic_loss = 0.5 * (fitted - batch["target"]).square().mean(1)

        estimate, temperature = self.path(batch["observation"], policy.logits, value, mask, self.streams)
        entropy, kl = policy.entropy(), behaviour.kl(policy)
        entropy_coefficient = self.log_entropy_coefficient.exp().unsqueeze(1)
        climb = estimate.objective + entropy_coefficient * entropy
        # REPPO, equation 9: a state whose policy has moved too far is only brought back.
        kept = kl < across(config.kl_bound, 1)
        actor_loss = torch.where(kept, -climb, self.log_kl_coefficient.exp().unsqueeze(1) * kl).mean(1)

        loss = critic_loss + actor_loss
        if estimate.auxiliary is not None:
            loss = loss + estimate.auxiliary.mean(1)
        # Summed, not averaged: each member's gradient is then what it would be alone.
        gradient, mean_entropy, mean_kl = self.group.means(
            self.parameters.gradient(loss.sum()), entropy.detach().mean(1), kl.detach().mean(1)
        )
        clipped = gradient[:, : self.num_clipped]
        norm = torch.linalg.vector_norm(clipped, dim=1, keepdim=True)
        clipped.mul_((across(config.max_grad_norm, 1) / norm.clamp_min(1e-12)).clamp_max(1.0))
        self.flat.grad = gradient
        self.optimizer.step()
        with torch.no_grad():
            rate, target = config.coefficient_rate, config.target_entropy * self.max_entropy
            self.log_entropy_coefficient.add_((target - mean_entropy) / self.max_entropy, alpha=rate)
            self.log_kl_coefficient.add_((mean_kl / config.kl_bound - 1.0).clamp(-1.0, 1.0), alpha=rate).clamp_min_(0.0)
        return {
            "train/critic_loss": critic_loss.detach(),
            "train/value": fitted.detach().mean(1),
            "policy/entropy": mean_entropy,
            "policy/kl": mean_kl,
            "policy/temperature": temperature,
            "policy/entropy_coefficient": entropy_coefficient.squeeze(1),
            "policy/kl_coefficient": self.log_kl_coefficient.exp(),
            "gradient/norm": norm.squeeze(1),
            "policy/probs": policy.probs.detach(),
        }

    def diagnose(self, rollout: Transition) -> dict[str, Tensor]:
        """Measure the estimator on the rollout's last states with the critic as it is; metrics, each `[member]`.

        It draws from streams of its own, so that measuring does not change what is learned.
        """
        last = rollout.at(-1, DIAGNOSED_STATES)
        features, _ = self.perception(last.observation, last.memory, last.gate_noise)
        return diagnose_path(
            self.path,
            features,
            self.policy(features, last.mask),
            self.critic(features),
            generator=self.diagnostic_streams,
        )

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state[self.flat]
        return {
            "parameters": self.flat.detach(),
            "optimizer": dict(state.items()),
            "log_entropy_coefficient": self.log_entropy_coefficient,
            "log_kl_coefficient": self.log_kl_coefficient,
            "streams": self.streams.state_dict(),
            "diagnostic_streams": self.diagnostic_streams.state_dict(),
            "path": {"moving_mean": self.path.moving_mean},
            "perception": self.perception.saved(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.flat.copy_(state["parameters"])
            self.log_entropy_coefficient.copy_(state["log_entropy_coefficient"])
            self.log_kl_coefficient.copy_(state["log_kl_coefficient"])
        self.optimizer.state[self.flat] = {
            name: value.to(self.flat.device) for name, value in state["optimizer"].items()
        }
        self.streams.load_state_dict(state["streams"])
        self.diagnostic_streams.load_state_dict(state["diagnostic_streams"])
        self.path.moving_mean.copy_(state["path"]["moving_mean"])
        self.perception.restore(state.get("perception", {}))


def make_perception(
    config: ActorCriticConfig, streams: RandomStreams, num_features: int, seeds: Sequence[int], group: Group = ALONE
) -> Perception:
    """Return what comes before the networks: normalisation and memory, where the settings ask for them."""
    normaliser = core = None
    if config.normalise_observations:
        normaliser = ObservationNormaliser(len(seeds), num_features, device=streams.device, group=group)
    if config.torso == "recurrent":
        core = RecurrentCore(
            streams,
            RandomStreams([derive_seed(seed, "gates") for seed in seeds], device=streams.device),
            num_features,
            size=config.memory_size,
            kind=config.gate,
            horizon=config.memory_horizon,
            temperature=config.gate_temperature,
        )
        core.streams.divide(group.rank, group.size)
    return Perception(normaliser, core)
