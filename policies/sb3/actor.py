"""The actor of stable-baselines3's SAC and TD3 for one-hot actions."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from gumbelrl.policies.action_layout import ActionLayout
from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.head import PolicyHead
from gumbelrl.policies.sb3.masks import mask_of
from gumbelrl.policies.sb3.reparameterised import pathwise_estimator, reparameterised
from gumbelrl.policies.sb3.temperature import ScheduledTemperature


def one_hot_layout(space: spaces.Space) -> ActionLayout:
    """Return the layout of the discrete space that `OneHotActions` presents.

    Raises:
        TypeError: the space is not what `OneHotActions` presents.
    """
    discrete = getattr(space, "discrete_space", None)
    if discrete is not None:
        return ActionLayout.from_space(discrete)
    if isinstance(space, spaces.Box):
        raise TypeError(
            f"the action space {space} is not one-hot: for a discrete environment write "
            "OneHotActions(env), from gumbelrl.envs; for continuous actions use stable-baselines3's own policy"
        )
    raise TypeError(
        f"the action space {space} must be shown as one-hot vectors: write OneHotActions(env), from gumbelrl.envs"
    )


class GumbelActor(BasePolicy):
    """Observations to a policy over one-hot actions, and to actions that a loss can differentiate through.

    Args:
        action_space: an `OneHotBox`.
        net_arch: units of the hidden layers.
        estimator: how the gradient passes the sample; one of `pathwise_estimators()`.
        temperature: of the estimator; the sample does not depend on it, except with `softmax` and `gumbel-soft`.
        logit_bound: logits are squashed as bound * tanh(logit / bound), with half of log(K - 1) added to the bound
            where there are K choices, so that a policy cannot become certain and lose its gradient; None for no bound.
        relaxed_call: what calling the actor gives: actions for a loss, as TD3 wants, or actions to take, as SAC does.
    """

    bounds: Tensor
    places: Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        estimator: str = "gumbel",
        temperature: float = 1.0,
        logit_bound: float | None = None,
        relaxed_call: bool = False,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            features_extractor=features_extractor,
            normalize_images=normalize_images,
            squash_output=True,  # predict then brings [-1, 1] back to [0, 1]
        )
        self.net_arch, self.features_dim, self.activation_fn = net_arch, features_dim, activation_fn
        self.estimator, self.relaxed_call = pathwise_estimator(estimator), relaxed_call
        self.scheduled_temperature = ScheduledTemperature(temperature)
        layout = one_hot_layout(action_space)
        self.latent_pi = nn.Sequential(*create_mlp(features_dim, -1, net_arch, activation_fn))
        self.head = PolicyHead(net_arch[-1] if net_arch else features_dim, layout)
        self.logit_bound = logit_bound
        bounds = [(logit_bound or 0.0) + 0.5 * math.log(max(count - 1, 1)) for count in layout.choice_counts]
        self.register_buffer("bounds", torch.tensor(bounds).unsqueeze(1), persistent=False)
        # Where the choices that exist are among groups x choices; None where all do.
        exists = layout.static_mask
        places = None if exists is None else exists.flatten().nonzero().squeeze(1)
        self.register_buffer("places", places, persistent=False)

    def policy(self, observation: PyTorchObs) -> CategoricalPolicy:
        """Return the policy in some states; where they are a dict, its `action_mask` holds."""
        latent = self.latent_pi(self.extract_features(observation, self.features_extractor))
        self.head.layout = self.head.layout.to(latent.device)
        mask = mask_of(observation)
        if mask is not None:
            mask = mask.reshape(latent.shape[0], 1, -1) if self.head.layout.num_groups == 1 else mask.flatten(1)
        policy: CategoricalPolicy = self.head(latent, mask)
        if self.logit_bound is None:
            return policy
        return CategoricalPolicy(self.bounds * torch.tanh(policy.logits / self.bounds), policy.mask)

    def flat(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch total"]:
        """Return one-hot actions as stable-baselines3 has them: side by side, between -1 and 1."""
        flat = action.flatten(-2)
        return 2.0 * (flat if self.places is None else flat.index_select(-1, self.places)) - 1.0

    def relaxed(self, policy: CategoricalPolicy) -> Float[Tensor, "batch total"]:
        """Return actions for a loss: what the estimator evaluates, with its gradient."""
        action = reparameterised(
            policy.logits, self.estimator, temperature=self.scheduled_temperature.value, mask=policy.mask
        )
        return self.flat(action)

    def act(self, observation: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "batch total"]:
        """Return actions to take: a one-hot sample of the policy, or its mode.

        Raises:
            ValueError: a mask allows nothing; the message names the environment's row.
        """
        policy = self.policy(observation)
        if policy.mask is not None and mask_of(observation) is not None:
            self.head.layout.check_mask(policy.mask)
        return self.flat(policy.mode if deterministic else policy.sample())

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Float[Tensor, "batch total"], Float[Tensor, " batch"]]:
        """Return actions for SAC's losses, and the expected log-probability in place of theirs: minus the entropy."""
        policy = self.policy(obs)
        return self.relaxed(policy), -policy.entropy()

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "batch total"]:
        return self.relaxed(self.policy(obs)) if self.relaxed_call else self.act(obs, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Float[Tensor, "batch total"]:
        return self.act(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "net_arch": self.net_arch,
            "features_dim": self.features_dim,
            "features_extractor": self.features_extractor,
            "activation_fn": self.activation_fn,
            "estimator": self.estimator.name,
            "temperature": self.scheduled_temperature.value,
            "logit_bound": self.logit_bound,
            "relaxed_call": self.relaxed_call,
        }
