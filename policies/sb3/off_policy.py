"""The policy head inside stable-baselines3's unmodified SAC, TD3 and DDPG, on environments wrapped in `OneHotActions`.

    env = OneHotActions(gymnasium.make("CartPole-v1"))
    SAC(GumbelSACPolicy, env, target_entropy=0.3 * env.action_space.largest_entropy)
    TD3(GumbelTD3Policy, env, target_noise_clip=0.0)

The actor samples one-hot actions, and an estimator carries the critic's slope to its logits (`reparameterised.py`).
stable-baselines3 rescales actions to [-1, 1] before it stores them, so that its critics see -1 and 1 for 0 and 1; the
actor speaks that language too, and `predict` gives one-hot vectors.

What SAC takes for the log-probability of its action is minus the entropy of the policy: SAC uses it only in
expectation, which is known exactly here (the log-probability of the sample would leave the actor without a gradient of
its entropy, since E[d log p] = 0).
"""

from __future__ import annotations

import math
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor

from gumbelrl.policies.sb3.actor import GumbelActor, one_hot_layout
from gumbelrl.policies.sb3.critic import LinearCritic
from gumbelrl.policies.sb3.inspection import Inspection, critic_value
from gumbelrl.policies.sb3.reparameterised import pathwise_estimator
from gumbelrl.policies.sb3.temperature import FollowsSchedule, parse
from gumbelrl.policies.temperature import format_temperature

CRITICS: dict[str, type[ContinuousCritic]] = {"linear": LinearCritic, "joint": ContinuousCritic}


class _WithEstimator(FollowsSchedule):
    """What the policies of SAC and TD3 share: their arguments, and the networks that these ask for."""

    estimator: str
    critic_name: str
    logit_bound: float | None
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    _relaxed_call: bool

    def _set_up(
        self,
        action_space: spaces.Space,
        estimator: str,
        temperature: float | str,
        critic: str,
        logit_bound: float | None,
        settings: dict[str, Any],
    ) -> None:
        """Check and keep the arguments; before `nn.Module.__init__`, which stable-baselines3 builds everything in."""
        one_hot_layout(action_space)
        pathwise_estimator(estimator)
        if settings.get("use_sde"):
            raise ValueError("use_sde=True is for continuous actions: leave it away, the policy explores by sampling")
        if critic not in CRITICS:
            raise ValueError(f"unknown critic {critic!r}: use {' or '.join(CRITICS)}")
        if logit_bound is not None and not 0 < logit_bound < math.inf:
            raise ValueError(f"logit_bound must be above 0 and finite, or None for no bound, got {logit_bound}")
        self.schedule = parse(temperature)
        self.estimator, self.critic_name, self.logit_bound = estimator, critic, logit_bound

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> GumbelActor:
        continuous = ("use_sde", "log_std_init", "use_expln", "clip_mean")
        settings = {name: value for name, value in self.actor_kwargs.items() if name not in continuous}
        settings = self._update_features_extractor(settings, features_extractor)  # type: ignore[operator]
        actor = GumbelActor(
            **settings,
            estimator=self.estimator,
            temperature=self.schedule.value(0.0, 0),
            logit_bound=self.logit_bound,
            relaxed_call=self._relaxed_call,
        )
        return actor.to(self.device)  # type: ignore[arg-type]

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        settings = self._update_features_extractor(self.critic_kwargs, features_extractor)  # type: ignore[operator]
        return CRITICS[self.critic_name](**settings).to(self.device)  # type: ignore[arg-type]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.actor.act(observation, deterministic)  # type: ignore[union-attr, operator]

    def inspect_head(self, observation: PyTorchObs) -> Inspection:
        """Return the policy in some states and what its actor climbs there."""
        actor: GumbelActor = self.actor  # type: ignore[assignment]
        value = critic_value(self.critic, actor, observation, lowest=not self._relaxed_call)  # type: ignore[arg-type]
        return Inspection(actor.policy(observation), self.temperature, list(actor.parameters()), actor.estimator, value)

    def set_training_mode(self, mode: bool) -> None:
        if mode:
            self.warn_if_left_alone()
        super().set_training_mode(mode)  # type: ignore[misc]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),  # type: ignore[misc]
            "estimator": self.estimator,
            "temperature": format_temperature(self.schedule),
            "critic": self.critic_name,
            "logit_bound": self.logit_bound,
        }


class GumbelSACPolicy(_WithEstimator, SACPolicy):  # type: ignore[misc]
    """Actor and critics for stable-baselines3's SAC; arguments as `SACPolicy`, and:

    Give SAC a target for the entropy: its own default, minus the number of choices, is one that a discrete entropy,
    which is never negative, cannot fall to, so that the entropy coefficient would go to zero.

    Args:
        estimator: how the gradient passes the sample; one of `pathwise_estimators()`.
        temperature: of the estimator; a number, or a schedule such as `linear:1.0:0.1`, which `GumbelCallback` moves
            along.
        critic: `linear` in the action (a value for each choice), or `joint`, stable-baselines3's own network of
            observation and action.
        logit_bound: of the actor; see there.

    Raises:
        TypeError: the environment is not wrapped in `OneHotActions`.
        ValueError: no such estimator, or not pathwise; the temperature is not positive or not a schedule; no such
            critic; gSDE.
    """

    _relaxed_call = False

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *args: Any,
        estimator: str = "gumbel",
        temperature: float | str = 1.0,
        critic: str = "linear",
        logit_bound: float | None = None,
        **kwargs: Any,
    ) -> None:
        self._set_up(action_space, estimator, temperature, critic, logit_bound, kwargs)
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)


class GumbelTD3Policy(_WithEstimator, TD3Policy):  # type: ignore[misc]
    """Actor, critics and slow copies for stable-baselines3's TD3 and DDPG; arguments as `TD3Policy`, and:

    It explores by sampling, so that no `action_noise` is needed, and none is possible: the action would no longer be
    one-hot. TD3 adds noise to the target's action too, which the critics would be asked about and never fitted to:
    `target_noise_clip=0.0` turns it off.

    Args:
        estimator: how the gradient passes the sample; one of `pathwise_estimators()`.
        temperature: of the estimator; a number, or a schedule such as `linear:1.0:0.1`, which `GumbelCallback` moves
            along.
        critic: `linear` in the action (a value for each choice), or `joint`, stable-baselines3's own network of
            observation and action.
        logit_bound: of the actor; see there. TD3 rewards no entropy, so that without a bound the policy becomes certain
            of one action and has no gradient left to leave it.

    Raises:
        TypeError: the environment is not wrapped in `OneHotActions`.
        ValueError: no such estimator, or not pathwise; the temperature is not positive or not a schedule; no such
            critic.
    """

    _relaxed_call = True

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        *args: Any,
        estimator: str = "gumbel",
        temperature: float | str = 1.0,
        critic: str = "linear",
        logit_bound: float | None = 4.0,
        **kwargs: Any,
    ) -> None:
        self._set_up(action_space, estimator, temperature, critic, logit_bound, kwargs)
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)


class GumbelSACCnnPolicy(GumbelSACPolicy):
    """The same for observations that are images."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class GumbelSACMultiInputPolicy(GumbelSACPolicy):
    """The same for observations that are dicts."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class GumbelTD3CnnPolicy(GumbelTD3Policy):
    """The same for observations that are images."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class GumbelTD3MultiInputPolicy(GumbelTD3Policy):
    """The same for observations that are dicts."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
