"""The policy of the SB3 algorithms: features extractors as SB3 makes them, then the networks of gumbelrl's own agents.

Networks are those of `gumbelrl.agents.networks` with a single member, so that weights go over to gumbelrl's agents and
back as they are. Tensors inside lead with `member`, of length 1, as everywhere in gumbelrl.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from gumbelrl.agents.critics import CRITICS, Ensemble, EnsembleValue
from gumbelrl.agents.errors import choose
from gumbelrl.agents.estimator_path import EstimatorPath
from gumbelrl.agents.networks import StackedMLP
from gumbelrl.agents.sb3.masks import MASK, check_action_space
from gumbelrl.policies import ESTIMATORS, ActionLayout, CategoricalPolicy, parse_temperature
from gumbelrl.random import RandomStreams

BASELINES = ("none", "mean-action", "self-critical")
ACTIVATION_NAMES: dict[type[nn.Module], str] = {nn.SiLU: "silu", nn.ReLU: "relu", nn.Tanh: "tanh"}


def new_streams(rows: int) -> RandomStreams:
    """Return streams for initial weights, seeded by torch's global generator, which SB3's `seed` seeds."""
    return RandomStreams([int(seed) for seed in torch.randint(1 << 62, (rows,))])


def set_activation(module: nn.Module, activation: type[nn.Module]) -> None:
    """Give every network inside `module` an activation that `StackedMLP` has no name for."""
    for network in module.modules():
        if isinstance(network, StackedMLP):
            network.activation = activation()


class GumbelActor(BaseModel):
    """Observations to a `CategoricalPolicy` `[1, batch, group, choice]`; holds the estimator and what it learns."""

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        hidden: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
        logit_bound: float | None,
        estimator: str,
        temperature: str,
        baseline: str,
        num_samples: int | None,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        layout = ActionLayout.from_space(action_space)
        self.shape, streams = (layout.num_groups, layout.num_choices), new_streams(1)
        self.network = StackedMLP(
            streams,
            features_dim,
            layout.num_groups * layout.num_choices,
            hidden=hidden,
            activation=ACTIVATION_NAMES.get(activation_fn, "silu"),
            layer_norm=layer_norm,
            last_gain=0.01,
        )
        if activation_fn not in ACTIVATION_NAMES:
            set_activation(self.network, activation_fn)
        self.path = EstimatorPath(
            ESTIMATORS[estimator],
            streams,
            layout,
            features_dim,
            schedule=parse_temperature(temperature),
            baseline=baseline,
            num_samples=num_samples,
        )
        self.bound: Tensor | None
        bound = None
        if logit_bound is not None:
            # See `OffPolicyConfig.logit_bound`: the odds of a choice are bounded whatever the number of choices.
            bounds = [logit_bound + 0.5 * math.log(max(count - 1, 1)) for count in layout.choice_counts]
            bound = torch.tensor(bounds).unsqueeze(1)
        self.register_buffer("bound", bound, persistent=False)

    def features(self, observation: PyTorchObs) -> Tensor:
        """Return `[1, batch, feature]`."""
        return self.extract_features(observation, self.features_extractor).unsqueeze(0)

    def policy(self, features: Tensor, mask: Bool[Tensor, "#batch group choice"] | None) -> CategoricalPolicy:
        logits = self.network(features).unflatten(-1, self.shape)
        if self.bound is not None:
            logits = self.bound * torch.tanh(logits / self.bound)
        return CategoricalPolicy(logits, None if mask is None else mask.expand(logits.shape))

    def forward(self, observation: PyTorchObs, mask: Tensor | None = None) -> CategoricalPolicy:
        return self.policy(self.features(observation), mask)


class GumbelCritic(BaseModel):
    """Observations to the value functions of an ensemble of critics."""

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        hidden: list[int],
        activation_fn: type[nn.Module],
        layer_norm: bool,
        critic: str,
        n_critics: int,
        shares_features_extractor: bool,
        normalize_images: bool = True,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.shares_features_extractor = shares_features_extractor
        self.ensemble = Ensemble(
            critic,
            new_streams(n_critics),
            features_dim,
            ActionLayout.from_space(action_space),
            size=n_critics,
            hidden=hidden,
            activation=ACTIVATION_NAMES.get(activation_fn, "silu"),
            layer_norm=layer_norm,
        )
        if activation_fn not in ACTIVATION_NAMES:
            set_activation(self.ensemble, activation_fn)

    def forward(self, observation: PyTorchObs) -> EnsembleValue:
        # As in SB3, an extractor that is shared learns from the actor's loss alone.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.shares_features_extractor):
            features = self.extract_features(observation, self.features_extractor)
        return self.ensemble(features.unsqueeze(0))


class GumbelPolicy(BasePolicy):
    """Actor, critics and their slow copies, for discrete spaces; what `"MlpPolicy"` names in the algorithms here.

    Args:
        observation_space: of the environment.
        action_space: Discrete, MultiDiscrete or MultiBinary.
        lr_schedule: of the optimisers.
        net_arch: units of the hidden layers, or `{"pi": [...], "qf": [...]}`.
        activation_fn: after each hidden layer.
        layer_norm: normalise hidden layers before their activation; without it joint critics fail.
        logit_bound: logits are squashed as bound · tanh(logit / bound); None for no bound.
        features_extractor_class: as in SB3.
        features_extractor_kwargs: as in SB3.
        normalize_images: as in SB3.
        optimizer_class: as in SB3.
        optimizer_kwargs: as in SB3; Adam is fused unless told otherwise.
        n_critics: number of critics.
        share_features_extractor: the critics see the actor's features; only the actor's loss trains the extractor.
        estimator: a name in `gumbelrl.policies.ESTIMATORS`; the algorithm passes it, as what follows.
        critic: a name in `gumbelrl.agents.critics.CRITICS`.
        temperature: a schedule as text.
        baseline: of the score function.
        num_samples: of the estimator, for each state.
        has_target_actor: keep a slow copy of the actor.
    """

    actor: GumbelActor
    critic: GumbelCritic
    critic_target: GumbelCritic
    default_net_arch: ClassVar[list[int]] = [64, 64]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.SiLU,
        layer_norm: bool = True,
        logit_bound: float | None = None,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        share_features_extractor: bool = False,
        estimator: str = "gumbel",
        critic: str = "linear",
        temperature: str = "1.0",
        baseline: str = "mean-action",
        num_samples: int | None = None,
        has_target_actor: bool = False,
    ) -> None:
        check_action_space(action_space)
        check_choices(estimator, critic, baseline)
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=normalize_images,
        )
        self._given: dict[str, Any] = {
            "net_arch": self.default_net_arch if net_arch is None else net_arch,
            "activation_fn": activation_fn,
            "layer_norm": layer_norm,
            "logit_bound": logit_bound,
            "n_critics": n_critics,
            "share_features_extractor": share_features_extractor,
            "estimator": estimator,
            "critic": critic,
            "temperature": temperature,
            "baseline": baseline,
            "num_samples": num_samples,
            "has_target_actor": has_target_actor,
        }
        self._layout = ActionLayout.from_space(action_space)
        self._action_type = torch.from_numpy(np.empty(0, dtype=action_space.dtype)).dtype
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        given = self._given
        self.actor = self._make_actor()
        shared = self.actor.features_extractor if given["share_features_extractor"] else None
        self.critic = self._make_critic(shared)
        self.critic_target = self._make_critic(None)
        self.critic_target.load_state_dict(self.critic.state_dict())
        own = [p for name, p in self.critic.named_parameters() if shared is None or "features_extractor" not in name]
        self.actor.optimizer = self._make_optimizer(list(self.actor.parameters()), lr_schedule)
        self.critic.optimizer = self._make_optimizer(own, lr_schedule)
        self.actor_target = self._make_actor() if given["has_target_actor"] else None
        if self.actor_target is not None:
            self.actor_target.load_state_dict(self.actor.state_dict())
            self.actor_target.set_training_mode(False)
        self.critic_target.set_training_mode(False)

    def _shared_arguments(self, features_extractor: BaseFeaturesExtractor | None) -> dict[str, Any]:
        return self._update_features_extractor(
            {
                "observation_space": self.observation_space,
                "action_space": self.action_space,
                "normalize_images": self.normalize_images,
                "activation_fn": self._given["activation_fn"],
                "layer_norm": self._given["layer_norm"],
            },
            features_extractor,
        )

    def _make_actor(self) -> GumbelActor:
        names = ("logit_bound", "estimator", "temperature", "baseline", "num_samples")
        hidden = get_actor_critic_arch(self._given["net_arch"])[0]
        chosen = {name: self._given[name] for name in names}
        return GumbelActor(**self._shared_arguments(None), **chosen, hidden=hidden).to(self.device)

    def _make_critic(self, shared: BaseFeaturesExtractor | None) -> GumbelCritic:
        return GumbelCritic(
            **self._shared_arguments(shared),
            hidden=get_actor_critic_arch(self._given["net_arch"])[1],
            critic=self._given["critic"],
            n_critics=self._given["n_critics"],
            shares_features_extractor=shared is not None,
        ).to(self.device)

    def _make_optimizer(self, parameters: list[nn.Parameter], lr_schedule: Schedule) -> torch.optim.Optimizer:
        options = dict(self.optimizer_kwargs)
        if issubclass(self.optimizer_class, torch.optim.Adam) and not {"foreach", "differentiable"} & options.keys():
            options.setdefault("fused", True)
        return self.optimizer_class(parameters, lr=lr_schedule(1), **options)  # type: ignore[call-arg]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            **self._given,
            "lr_schedule": self._dummy_schedule,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Put actor and critics in training or evaluation mode; the slow copies stay in evaluation mode."""
        # Walking through all modules takes as long as acting does, and SB3 asks for it before every action.
        if not self.training == self.actor.training == self.critic.training == mode:
            self.actor.set_training_mode(mode)
            self.critic.set_training_mode(mode)
            self.training = mode

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.actor.network.last_layer.weight.device if hasattr(self, "actor") else torch.device("cpu")

    # Acting ---------------------------------------------------------------------------------------------------------

    @property
    def layout(self) -> ActionLayout:
        """The action space, on the policy's device."""
        self._layout = self._layout.to(self.device)
        return self._layout

    def valid(self, observation: PyTorchObs, mask: Any | None = None) -> Bool[Tensor, "#batch group choice"] | None:
        """Return which choices are valid: by `mask`, by the observation's `action_mask`, or all that exist."""
        if mask is None and isinstance(observation, dict):
            mask = observation.get(MASK)
        if mask is not None and self.layout.num_groups == 1:
            mask = mask.reshape(len(mask), 1, -1)  # a batch of one, [1, choice], is not a mask [group, choice]
        return self.layout.merge_mask(mask)

    def distribution(self, observation: PyTorchObs, mask: Any | None = None) -> CategoricalPolicy:
        """Return the policy in a batch of observations, `[1, batch, group, choice]`.

        Raises:
            ValueError: a mask leaves no choice; the message names the row.
        """
        valid = self.valid(observation, mask)
        if valid is not None and valid is not self.layout.static_mask:
            self.layout.check_mask(valid)
        return self.actor(observation, valid)

    def _act(self, observation: PyTorchObs, deterministic: bool, mask: Any | None) -> Tensor:
        policy = self.distribution(observation, mask)
        action = policy.mode if deterministic else policy.sample()
        return self.layout.from_one_hot(action.squeeze(0)).to(self._action_type)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self._act(observation, deterministic, None)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions as the environment takes them, `[*action shape]` or `[env, *action shape]`.

        Args:
            observation: of one environment or of several.
            state: not used; as in SB3.
            episode_start: not used; as in SB3.
            deterministic: the most probable action, else a sample of the policy.
            action_masks: as sb3-contrib's `MaskablePPO` takes them; nonzero where valid, `[sum of choices]` or
                `[env, sum of choices]`. An observation's `action_mask` needs no argument.

        Raises:
            ValueError: a mask has another shape, or leaves no choice.
        """
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        self.set_training_mode(False)
        tensors, is_batch = self.obs_to_tensor(observation)
        masks = np.asarray(action_masks)
        with torch.no_grad():
            action = self._act(tensors, deterministic, masks if is_batch else masks[None]).cpu().numpy()
        return (action if is_batch else action[0]), state


class GumbelCnnPolicy(GumbelPolicy):
    """`GumbelPolicy` for images."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class GumbelMultiInputPolicy(GumbelPolicy):
    """`GumbelPolicy` for Dict observations; an `action_mask` in them is obeyed, and seen as any other part."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


def check_choices(estimator: str, critic: str, baseline: str) -> None:
    """Refuse names that do not exist.

    Raises:
        RunError: with the names that do.
    """
    choose("estimator", estimator, ESTIMATORS)
    choose("baseline", baseline, BASELINES)
    known = [name for name, kind in CRITICS.items() if not getattr(kind, "interpolates", False)]
    if critic in CRITICS and critic not in known:
        raise ValueError(
            f"critic {critic!r} is fitted at the probabilities that acted, which SB3's replay does not keep: choose "
            f"one of {', '.join(known)}, or train with gumbelrl's own agents"
        )
    choose("critic", critic, known)
