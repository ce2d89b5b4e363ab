"""The policy head inside stable-baselines3's unmodified PPO and A2C (and sb3-contrib's TRPO).

    PPO(GumbelActorCriticPolicy, "CartPole-v1")
    PPO(GumbelActorCriticPolicy, env, policy_kwargs={"temperature": "linear:2.0:1.0"}).learn(n, GumbelCallback())

The temperature is that of the policy: it acts with, and learns, softmax(logits / temperature); see `distribution.py`.
Its gradient is the score function's, as PPO's always is: no estimator is involved.
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.sb3.distribution import AnyGumbelDistribution, flat_layout, make_gumbel_distribution
from gumbelrl.policies.sb3.inspection import Inspection
from gumbelrl.policies.sb3.masks import mask_of
from gumbelrl.policies.sb3.temperature import FollowsSchedule, ScheduledTemperature, parse
from gumbelrl.policies.temperature import format_temperature


class GumbelActorCriticPolicy(ActorCriticPolicy, FollowsSchedule):
    """Actor and critic for observations that are vectors; arguments as `ActorCriticPolicy`, and:

    Where observations are a dict with an `action_mask`, its choices that are zero are never taken.

    Args:
        temperature: of the policy; a number, or a schedule such as `linear:2.0:1.0`, which `GumbelCallback` moves
            along.

    Raises:
        TypeError: the action space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: the temperature is not positive or not a schedule, or gSDE is asked for.
    """

    action_dist: AnyGumbelDistribution

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        temperature: float | str = 1.0,
        **kwargs: Any,
    ) -> None:
        flat_layout(action_space)
        self.schedule = parse(temperature)
        self._mask: Tensor | None = None
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.scheduled_temperature = ScheduledTemperature(self.schedule.value(0.0, 0))
        self.action_dist = make_gumbel_distribution(self.action_space, self.scheduled_temperature)
        super()._build(lr_schedule)

    def extract_features(self, obs: PyTorchObs, *args: Any, **kwargs: Any) -> Any:
        self._mask = mask_of(obs)
        return super().extract_features(obs, *args, **kwargs)

    def get_distribution(self, obs: PyTorchObs) -> AnyGumbelDistribution:
        self._mask = mask_of(obs)
        return super().get_distribution(obs)  # type: ignore[return-value]

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> AnyGumbelDistribution:
        distribution = self.action_dist.proba_distribution(self.action_net(latent_pi))
        # It belongs to the observation whose features have just been taken, and to no other.
        mask, self._mask = self._mask, None
        if mask is not None:
            distribution.apply_masking(mask)
        return distribution

    def inspect_head(self, observation: PyTorchObs) -> Inspection:
        """Return the policy in some states."""
        policy: CategoricalPolicy = self.get_distribution(observation).policy
        return Inspection(policy, self.temperature, list(self.parameters()))

    def set_training_mode(self, mode: bool) -> None:
        if mode:
            self.warn_if_left_alone()
        super().set_training_mode(mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "temperature": format_temperature(self.schedule)}


class GumbelActorCriticCnnPolicy(GumbelActorCriticPolicy):
    """The same for observations that are images."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class GumbelActorCriticMultiInputPolicy(GumbelActorCriticPolicy):
    """The same for observations that are dicts."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
