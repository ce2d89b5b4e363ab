"""Critics of stable-baselines3's SAC, TD3 and DDPG that are linear in a one-hot action."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn


class LinearCritic(ContinuousCritic):
    """A value for each choice from the observation, summed over the choices taken; in the place of `ContinuousCritic`.

    Its slope with respect to the action is the difference between actions, which estimators carry to the policy; that
    of a network of observation and action is not, and tells the policy little (`docs/estimators.md`).
    """

    def __init__(
        self,
        net_arch: list[int],
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        **settings: Any,
    ) -> None:
        # Built without hidden layers, since these networks are replaced.
        super().__init__(net_arch=[], features_dim=features_dim, activation_fn=activation_fn, **settings)
        num_choices = get_action_dim(self.action_space)
        self.q_networks = []
        for index in range(self.n_critics):
            network = nn.Sequential(*create_mlp(features_dim, num_choices, net_arch, activation_fn))
            self.q_networks.append(network)
            self.add_module(f"qf{index}", network)

    def forward(self, obs: Tensor, actions: Float[Tensor, "batch total"]) -> tuple[Float[Tensor, "batch 1"], ...]:
        features = self.extract_features(obs, self.features_extractor)
        # As in ContinuousCritic, features that are shared with the actor are learned by the actor's loss alone.
        features = features.detach() if self.share_features_extractor else features
        return tuple(self.value(network, features, actions) for network in self.q_networks)

    def q1_forward(self, obs: Tensor, actions: Float[Tensor, "batch total"]) -> Float[Tensor, "batch 1"]:
        features = self.extract_features(obs, self.features_extractor).detach()
        return self.value(self.q_networks[0], features, actions)

    @staticmethod
    def value(network: nn.Module, features: Tensor, actions: Tensor) -> Float[Tensor, "*batch 1"]:
        """Return what one of `q_networks` says of actions `[*batch, total]`, from features that broadcast to them."""
        # The replay holds actions between -1 and 1.
        return (network(features) * (0.5 * actions + 0.5)).sum(-1, keepdim=True)
