"""What `GumbelSAC`, `GumbelTD3` and `GumbelDDPG` share: SB3's off-policy loop around gumbelrl's losses.

The loop, the replay, saving and loading are SB3's. An update is that of `gumbelrl.agents.off_policy`: critics are
fitted to R + γ V(next state), the actor climbs the critics through an estimator on the same batch, and one forward pass
of the critics and one backward pass serve both.
"""

from __future__ import annotations

import io
import pathlib
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.utils import LinearSchedule, get_parameters_by_name, polyak_update
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from gumbelrl.agents.critics import EnsembleValue
from gumbelrl.agents.sb3.inspection import inspect_replay
from gumbelrl.agents.sb3.masks import (
    MASK,
    UNKNOWN_LAST_MASK,
    MaskSource,
    check_action_space,
    find_masks,
    masks_after,
    report_masks,
)
from gumbelrl.agents.sb3.policy import GumbelCnnPolicy, GumbelMultiInputPolicy, GumbelPolicy, check_choices
from gumbelrl.agents.sb3.replay import masked_class
from gumbelrl.policies import ActionLayout, CategoricalPolicy, Value, format_temperature, parse_temperature
from gumbelrl.policies.sb3.inspection import Inspection
from gumbelrl.policies.temperature import Constant, check_temperature

# Brought to zero over a run; what `gumbelrl.agents.off_policy` found for its own.
LEARNING_RATE = LinearSchedule(1e-3, 0.0, 1.0)
Temperature = float | str | Callable[[float], float]
Self = TypeVar("Self", bound="GumbelOffPolicyAlgorithm")


class Batch(NamedTuple):
    """Transitions from the replay; `discount` is what the value of `next_observation` counts, 0 where it terminated."""

    observation: PyTorchObs
    mask: Bool[Tensor, "#batch group choice"] | None
    action: Float[Tensor, "1 batch group choice"]
    reward: Float[Tensor, "1 batch"]
    discount: Float[Tensor, "1 batch"]
    next_observation: PyTorchObs
    next_mask: Bool[Tensor, "#batch group choice"] | None


class GumbelOffPolicyAlgorithm(OffPolicyAlgorithm):
    """An off-policy SB3 algorithm for discrete spaces; a subclass says what the critics are fitted to.

    What is not listed is as in SB3's `SAC` and `TD3`.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or a subclass of `GumbelPolicy`.
        env: with a Discrete, MultiDiscrete or MultiBinary action space; masks are found by themselves.
        tau: SB3's name for the share of the networks that the targets take over in each update.
        action_noise: refused: the policy is sampled instead.
        estimator: a name in `gumbelrl.policies.ESTIMATORS`.
        temperature: of the estimator: a number, a schedule as text such as "linear:1.0:0.1" or "learned:1.0", or a
            function of the remaining progress, from 1 to 0, as SB3's schedules are. Acting does not depend on it.
        critic: "linear", "multilinear" or "joint"; see `gumbelrl.agents.critics`.
        baseline: of the score function, for estimators that take one.
        num_samples: of the estimator for each state; its own default if not given.
        critic_rate_factor: the critics' learning rate is `learning_rate` times this.
        n_steps: n of the n-step returns; None is 3, and 1 where SB3 has none: for Dict observations, a
            `replay_buffer_class` and `optimize_memory_usage`.
        exploration_rate: probability of a uniformly random action instead of a sampled one: a number, or a function of
            the remaining progress.

    Raises:
        ValueError: an argument or a space cannot work; the message says what to do.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": GumbelPolicy,
        "CnnPolicy": GumbelCnnPolicy,
        "MultiInputPolicy": GumbelMultiInputPolicy,
    }
    policy: GumbelPolicy
    has_target_actor: ClassVar[bool] = False
    default_policy_kwargs: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        policy: str | type[GumbelPolicy],
        env: GymEnv | str | None,
        *,
        learning_rate: Any,
        action_noise: ActionNoise | None,
        estimator: str,
        temperature: Temperature,
        critic: str,
        baseline: str,
        num_samples: int | None,
        exploration_rate: float | Callable[[float], float],
        critic_rate_factor: float,
        n_steps: int | None,
        _init_setup_model: bool,
        **arguments: Any,
    ) -> None:
        if action_noise is not None:
            raise ValueError(
                f"{type(self).__name__} takes no action_noise, which is added to continuous actions: it explores by "
                "sampling its policy; for more exploration raise exploration_rate"
            )
        super().__init__(policy, env, learning_rate, sde_support=False, support_multi_env=True, **arguments)  # type: ignore[arg-type]
        self.estimator, self.temperature, self.critic_name = estimator, temperature, critic
        self.baseline, self.num_samples, self.exploration_rate = baseline, num_samples, exploration_rate
        self.critic_rate_factor, self.n_steps = critic_rate_factor, n_steps  # type: ignore[assignment]
        self.algorithm_name = type(self).__name__
        self.mask_source: MaskSource | None = None
        self._masks: Bool[np.ndarray, "env total"] | None = None
        self._masks_forbid = self._warned_of_masks = False
        if _init_setup_model:
            self._setup_model()

    # Building -------------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        self._check()
        self.layout = ActionLayout.from_space(self.action_space)
        if self.env is not None:
            self.mask_source = find_masks(self.env)
        self._schedule = None if callable(self.temperature) else parse_temperature(str(self.temperature))
        given, replay_given = self.policy_kwargs, (self.replay_buffer_class, self.replay_buffer_kwargs, self.n_steps)
        self.n_steps = self._return_steps()
        if self.mask_source == "environment" and self.replay_buffer is None:
            self._store_masks()
        self.policy_kwargs = {**self.default_policy_kwargs, **given, **self._policy_arguments()}
        super()._setup_model()
        # What is saved is what was asked for, so that loading accepts the same arguments again.
        self.policy_kwargs = given
        self.replay_buffer_class, self.replay_buffer_kwargs, self.n_steps = replay_given
        self.layout = self.layout.to(self.device)
        self._create_aliases()

    def _check(self) -> None:
        name = type(self).__name__
        saved_by = getattr(self, "algorithm_name", None)
        if not issubclass(self.policy_class, GumbelPolicy) or saved_by is None:
            raise ValueError(
                f"{name} needs a GumbelPolicy, and {self.policy_class.__name__} is none: pass 'MlpPolicy', 'CnnPolicy' "
                "or 'MultiInputPolicy', and load a file with the class that saved it"
            )
        if saved_by != name:
            raise ValueError(f"this model was saved by {saved_by}: load it with {saved_by}.load(...), not with {name}")
        check_action_space(self.action_space)
        check_choices(self.estimator, self.critic_name, self.baseline)
        if not callable(self.temperature):
            parse_temperature(str(self.temperature))
        if not callable(self.exploration_rate) and not 0 <= self.exploration_rate <= 1:
            raise ValueError(f"exploration_rate must be between 0 and 1, got {self.exploration_rate}")

    def _return_steps(self) -> int:
        if self.n_steps is not None:
            return self.n_steps
        has_none = self.optimize_memory_usage or self.replay_buffer_class is not None
        return 1 if has_none or isinstance(self.observation_space, spaces.Dict) else 3

    def _store_masks(self) -> None:
        """Take the replay buffer that stores masks as well, in the place of the one that was asked for."""
        kwargs: dict[str, Any] = {**self.replay_buffer_kwargs, "num_mask": sum(self.layout.choice_counts)}
        is_plain = self.replay_buffer_class is None and not isinstance(self.observation_space, spaces.Dict)
        if is_plain and self.n_steps > 1:
            kwargs |= {"n_steps": self.n_steps, "gamma": self.gamma}
            self.n_steps = 1  # done by the buffer given here
        self.replay_buffer_class = masked_class(self.replay_buffer_class, self.observation_space)
        self.replay_buffer_kwargs = kwargs

    def _policy_arguments(self) -> dict[str, Any]:
        # A function of the progress is applied in `train`; the policy only needs to know that nothing is learned.
        schedule = self._schedule or Constant(1.0)
        return {
            "estimator": self.estimator,
            "critic": self.critic_name,
            "temperature": format_temperature(schedule),
            "baseline": self.baseline,
            "num_samples": self.num_samples,
            "has_target_actor": self.has_target_actor,
        }

    def _create_aliases(self) -> None:
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.actor_target, self.critic_target = self.policy.actor_target, self.policy.critic_target
        pairs = [(self.critic, self.critic_target)]
        if self.actor_target is not None:
            pairs.append((self.actor, self.actor_target))  # type: ignore[arg-type]
        self._followed = [(list(a.parameters()), list(b.parameters())) for a, b in pairs]
        # Running statistics of normalisation in users' own extractors are copied, not averaged.
        self._copied = [tuple(get_parameters_by_name(part, ["running_"]) for part in pair) for pair in pairs]

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        return OffPolicyAlgorithm._wrap_env(report_masks(env), verbose, monitor_wrapper)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment; as in SB3.

        Raises:
            ValueError: it has its masks elsewhere than the environment that the model was made for.
        """
        wrapped = self._wrap_env(env, self.verbose)
        source = find_masks(wrapped)
        if source != self.mask_source:
            known = {None: "no masks", "observation": f"{MASK!r} in its observations", "environment": "action_masks()"}
            raise ValueError(
                f"the environment has {known[source]}, but the model was made for one that has "
                f"{known[self.mask_source]}: make a new model with this environment, and give it the weights by "
                "set_parameters(old.get_parameters())"
            )
        self._masks = None
        super().set_env(wrapped, force_reset)

    # Acting ---------------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions as the environment takes them; see `GumbelPolicy.predict`.

        Raises:
            ValueError: none were passed, and `action_masks()` of the environment forbade actions in training.
        """
        if action_masks is None and self._masks_forbid:
            raise ValueError(
                "the model was trained for an environment with action_masks(): pass predict(..., action_masks="
                "env.action_masks()), and evaluate with sb3_contrib.common.maskable.evaluation.evaluate_policy"
            )
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._last_obs is not None
        masks = self._valid_now()
        if self.num_timesteps < learning_starts:
            action = self._random_actions(masks, n_envs)
        else:
            action, _ = self.policy.predict(self._last_obs, deterministic=False, action_masks=masks)
            rate = self._exploration_rate_now()
            explores = np.random.random(n_envs) < rate if rate else np.zeros(n_envs, dtype=bool)  # noqa: NPY002 — as SB3
            if explores.any():
                chosen = explores.reshape(-1, *[1] * (action.ndim - 1))
                action = np.where(chosen, self._random_actions(masks, n_envs), action)
        return action, action

    def _exploration_rate_now(self) -> float:
        rate = self.exploration_rate
        return rate(self._current_progress_remaining) if callable(rate) else rate

    def _valid_now(self) -> np.ndarray | None:
        """Return the masks of the states that the environments are in, `[env, sum of choices]`."""
        if self.mask_source is None:
            return None
        if self.mask_source == "observation":
            assert isinstance(self._last_obs, dict)
            return self._last_obs[MASK]
        if self._masks is None:
            self._masks = self._ask_masks()
        return self._masks

    def _ask_masks(self) -> Bool[np.ndarray, "env total"]:
        assert self.env is not None
        masks = np.stack(self.env.env_method("action_masks")).astype(bool)
        self._masks_forbid = self._masks_forbid or not masks.all()
        return masks.reshape(len(masks), -1)

    def _random_actions(self, masks: np.ndarray | None, n_envs: int) -> np.ndarray:
        if masks is None:
            return np.array([self.action_space.sample() for _ in range(n_envs)])
        layout, valid = self.policy.layout, self.policy.valid({}, masks)
        assert valid is not None
        layout.check_mask(valid)
        action = CategoricalPolicy(torch.zeros(valid.shape, device=valid.device), valid).sample()
        return layout.from_one_hot(action).cpu().numpy().astype(self.action_space.dtype)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        self._masks = None
        return super()._setup_learn(*args, **kwargs)

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        if self.mask_source == "environment":
            before, self._masks = self._valid_now(), self._ask_masks()
            after, infos, was_unknown = masks_after(self._masks, dones, infos, ends=self._masks_forbid)
            if was_unknown and not self._warned_of_masks:
                self._warned_of_masks = True
                warnings.warn(UNKNOWN_LAST_MASK)
            replay_buffer.pending = (before, after)  # type: ignore[attr-defined]
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    # Learning -------------------------------------------------------------------------------------------------------

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Make `gradient_steps` updates."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])  # type: ignore[list-item]
        for group in self.critic.optimizer.param_groups:
            group["lr"] *= self.critic_rate_factor
        self.actor.path.scheduled_temperature = self._temperature_now()  # type: ignore[union-attr]
        metrics: dict[str, list[Tensor]] = {}
        for _ in range(gradient_steps):
            self._n_updates += 1
            for name, value in self._step(self._draw(batch_size)).items():
                metrics.setdefault(name, []).append(value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        means = torch.stack([torch.stack(values).mean() for values in metrics.values()]).tolist()
        for name, mean in zip(metrics, means, strict=True):
            self.logger.record(f"train/{name}", mean)

    def _temperature_now(self) -> float:
        if callable(self.temperature):
            temperature = float(self.temperature(self._current_progress_remaining))
            check_temperature(temperature)
            return temperature
        assert self._schedule is not None
        return self._schedule.value(1.0 - self._current_progress_remaining, self.num_timesteps)

    def _draw(self, batch_size: int) -> Batch:
        assert self.replay_buffer is not None
        drawn: Any = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        observation, mask = self._split(drawn.observations, getattr(drawn, "masks", None))
        next_observation, next_mask = self._split(drawn.next_observations, getattr(drawn, "next_masks", None))
        going_on = 1.0 - drawn.dones.reshape(1, -1)
        discount = going_on * (self.gamma if drawn.discounts is None else drawn.discounts.reshape(1, -1))
        index = drawn.actions.reshape(-1, *(self.action_space.shape or ()))
        action = self.layout.to_one_hot(index).unsqueeze(0)
        return Batch(observation, mask, action, drawn.rewards.reshape(1, -1), discount, next_observation, next_mask)

    def _split(self, observation: Any, mask: Tensor | None) -> tuple[PyTorchObs, Tensor | None]:
        """Return the observation as the policy takes it, and which choices are valid in it."""
        if mask is None and self.mask_source is not None:
            mask = observation[MASK]
            if self.mask_source == "environment":
                observation = {name: part for name, part in observation.items() if name != MASK}
        return observation, self.policy.valid({}, mask)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """Make one optimiser step; the actor moves only when it is due."""
        climbs = self.actor_is_due()
        target = batch.reward + batch.discount * self.next_value(batch)
        value = self.critic(batch.observation)
        fitted = value.all(batch.action)
        critic_loss = 0.5 * (fitted - target.unsqueeze(1)).square().mean(2).sum()
        metrics = {"critic_loss": critic_loss.detach(), "value": fitted.detach().mean()}
        loss = critic_loss
        if climbs:
            actor_loss, found = self._actor_loss(batch, value)
            loss, metrics = loss + actor_loss, metrics | found
        optimizers: list[Any] = [self.critic.optimizer, self.actor.optimizer] if climbs else [self.critic.optimizer]
        for optimizer in optimizers:
            optimizer.zero_grad()
        # The actor's loss has no gradient for the critics, so that one backward pass serves both.
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if climbs:
            self._follow()
        return metrics

    def _actor_loss(self, batch: Batch, value: EnsembleValue) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        actor: Any = self.actor
        features = actor.features(batch.observation)
        policy = actor.policy(features, batch.mask)
        estimate, temperature = actor.path(
            features, policy.logits, self.climbed_value(value, policy), policy.mask, generator=None
        )
        entropy, objective = policy.entropy(), estimate.objective
        if estimate.auxiliary is not None:
            objective = objective - estimate.auxiliary
        bonus, metrics = self.entropy_bonus(entropy, policy.mask)
        actor_loss = -(objective + bonus).mean()
        return actor_loss, metrics | {
            "actor_loss": actor_loss.detach(),
            "entropy": entropy.detach().mean(),
            "temperature": temperature.mean(),
        }

    @torch.no_grad()
    def _follow(self) -> None:
        for parameters, targets in self._followed:
            polyak_update(parameters, targets, self.tau)
        for statistics, copies in self._copied:
            polyak_update(statistics, copies, 1.0)

    @abstractmethod
    def next_value(self, batch: Batch) -> Float[Tensor, "1 batch"]:
        """Return the value of the next states, without gradient."""

    def climbed_value(self, value: EnsembleValue, policy: CategoricalPolicy) -> Value:
        """Return the value function that the actor climbs."""
        return value.first()

    def actor_is_due(self) -> bool:
        """Say whether this update moves the actor and the targets."""
        return True

    def entropy_bonus(self, entropy: Tensor, mask: Tensor | None) -> tuple[Tensor | float, dict[str, Tensor]]:
        """Return what is added to the actor's objective for its entropy, and metrics."""
        return 0.0, {}

    def inspect_last(self, count: int) -> Inspection | None:
        """Return the policy in `count` states of the replay, for `GumbelCallback`; None before it holds any."""
        return inspect_replay(self, count)

    # SB3's own ------------------------------------------------------------------------------------------------------

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Learn; as in SB3."""
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        return super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[Self],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        **kwargs: Any,
    ) -> Self:
        """Load a model that `save` wrote; the file is trusted: SB3 unpickles it.

        Args:
            path: of the file.
            env: to go on learning in.
            device: where the model goes.
            kwargs: as in SB3; `estimator` and `critic` must be those of the saved model.

        Raises:
            ValueError: the model is of another class, estimator or critic.
        """
        asked: dict[str, Any] = {name: kwargs.pop(name) for name in ("estimator", "critic") if name in kwargs}
        model = super().load(path, env, device, **kwargs)
        for name, saved in (("estimator", model.estimator), ("critic", model.critic_name)):
            if asked.get(name, saved) != saved:
                raise ValueError(
                    f"the model was trained with {name} {saved!r}, and {asked[name]!r} was asked for: leave {name}= "
                    f"out to go on as before, or train a new {cls.__name__} with {name}={asked[name]!r}"
                )
        return model

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "actor_target", "critic", "critic_target", "_followed", "_copied", "layout", "_masks"]
        return super()._excluded_save_params() + aliases

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "actor.optimizer", "critic.optimizer"], []
