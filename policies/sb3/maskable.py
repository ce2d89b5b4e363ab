"""The policy head inside sb3-contrib's unmodified MaskablePPO; needs `pip install sb3-contrib`.

    MaskablePPO(GumbelMaskableActorCriticPolicy, env)

The mask holds in acting and learning alike, and gives a choice that is not valid a probability of exactly zero, which
stable-baselines3's own has only nearly (a logit of -1e8).
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableBernoulliDistribution,
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.sb3.distribution import (
    CategoricalHead,
    GumbelDistribution,
    MultiCategoricalHead,
    flat_layout,
)
from gumbelrl.policies.sb3.inspection import Inspection
from gumbelrl.policies.sb3.temperature import FollowsSchedule, ScheduledTemperature, parse
from gumbelrl.policies.temperature import format_temperature


class GumbelMaskableCategoricalDistribution(CategoricalHead, MaskableCategoricalDistribution):  # type: ignore[misc]
    """The head as `MaskableCategoricalDistribution`."""


class GumbelMaskableMultiCategoricalDistribution(  # type: ignore[misc]
    MultiCategoricalHead, MaskableMultiCategoricalDistribution
):
    """The head as `MaskableMultiCategoricalDistribution`."""


class GumbelMaskableBernoulliDistribution(MultiCategoricalHead, MaskableBernoulliDistribution):  # type: ignore[misc]
    """The head as `MaskableBernoulliDistribution`: two choices a variable, either of which a mask can forbid."""


def make_gumbel_maskable_distribution(space: spaces.Space, temperature: ScheduledTemperature) -> GumbelDistribution:
    """Return the head's distribution over a discrete action space, as `make_masked_proba_distribution` does.

    Raises:
        TypeError: the space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: it has several axes.
    """
    layout = flat_layout(space)
    made: GumbelDistribution
    if isinstance(space, spaces.Discrete):
        made = GumbelMaskableCategoricalDistribution(int(space.n))
    elif isinstance(space, spaces.MultiDiscrete):
        made = GumbelMaskableMultiCategoricalDistribution(list(layout.choice_counts))
    else:
        made = GumbelMaskableBernoulliDistribution(layout.num_groups)
    return made.attach(layout, temperature)


class GumbelMaskableActorCriticPolicy(MaskableActorCriticPolicy, FollowsSchedule):
    """Actor and critic for observations that are vectors; arguments as `MaskableActorCriticPolicy`, and:

    Args:
        temperature: of the policy; a number, or a schedule such as `linear:2.0:1.0`, which `GumbelCallback` moves
            along.

    Raises:
        TypeError: the action space is not Discrete, MultiDiscrete or MultiBinary.
        ValueError: the temperature is not positive or not a schedule.
    """

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
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        self.scheduled_temperature = ScheduledTemperature(self.schedule.value(0.0, 0))
        self.action_dist = make_gumbel_maskable_distribution(self.action_space, self.scheduled_temperature)  # type: ignore[assignment]
        super()._build(lr_schedule)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        return self.action_dist.proba_distribution(self.action_net(latent_pi))

    def inspect_head(self, observation: PyTorchObs) -> Inspection:
        """Return the policy in some states."""
        policy: CategoricalPolicy = self.get_distribution(observation).policy  # type: ignore[attr-defined]
        return Inspection(policy, self.temperature, list(self.parameters()))

    def set_training_mode(self, mode: bool) -> None:
        if mode:
            self.warn_if_left_alone()
        super().set_training_mode(mode)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "temperature": format_temperature(self.schedule)}


class GumbelMaskableActorCriticCnnPolicy(GumbelMaskableActorCriticPolicy):
    """The same for observations that are images."""

    def __init__(self, *args: Any, features_extractor_class: type = NatureCNN, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)


class GumbelMaskableActorCriticMultiInputPolicy(GumbelMaskableActorCriticPolicy):
    """The same for observations that are dicts."""

    def __init__(self, *args: Any, features_extractor_class: type = CombinedExtractor, **kwargs: Any) -> None:
        super().__init__(*args, features_extractor_class=features_extractor_class, **kwargs)
