"""gumbelrl's `sac`, `td3` and `ddpg` agents to SB3 models and back.

The networks are the same, so that weights go over as they are: equal actions for equal observations. What does not go
over: replay, the moments of Adam, and whatever the other side does not have; each function says what it refuses.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import LinearSchedule
from torch import nn
from torch.nn import functional

from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.ddpg import DDPG, DDPGConfig
from gumbelrl.agents.networks import StackedMLP
from gumbelrl.agents.off_policy import OffPolicyAgent
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.sac import SAC, SACConfig
from gumbelrl.agents.sb3.algorithm import GumbelOffPolicyAlgorithm
from gumbelrl.agents.sb3.entropy import TARGET_SHARE, GumbelEntropyAlgorithm
from gumbelrl.agents.sb3.policy import ACTIVATION_NAMES
from gumbelrl.agents.sb3.sac import GumbelSAC
from gumbelrl.agents.sb3.td3 import GumbelDDPG, GumbelTD3
from gumbelrl.agents.td3 import TD3, TD3Config
from gumbelrl.policies import LearnedTemperature, StateTemperature, parse_temperature

PAIRS: list[tuple[type[OffPolicyAgent], Any, type[GumbelOffPolicyAlgorithm]]] = [
    (SAC, SACConfig, GumbelSAC),
    (TD3, TD3Config, GumbelTD3),
    (DDPG, DDPGConfig, GumbelDDPG),
]
ACTIVATION_CLASSES = {name: kind for kind, name in ACTIVATION_NAMES.items()}


def to_sb3(agent: Any, env: GymEnv | str, *, member: int = 0, **arguments: Any) -> GumbelOffPolicyAlgorithm:
    """Return an SB3 model that acts as one member of a gumbelrl agent does.

    Args:
        agent: a `SAC`, `TD3` or `DDPG` of `gumbelrl.agents`, such as `Experiment(...).trainer.agent`.
        env: the environment, or a gymnasium id; its spaces are those that the agent was trained on.
        member: which of the agent's members.
        arguments: for the model, beside those that the agent's settings decide. Learning goes on with a new replay, at
            the temperature where the schedule is, and with rewards as they are, whatever the agent's `reward_scale`.

    Raises:
        ValueError: the agent is another one, its networks are not plain multilayer perceptrons, its critic is
            `interpolated`, or the spaces do not fit.
    """
    kinds = [(config, model) for kind, config, model in PAIRS if type(agent) is kind]
    if not kinds:
        raise ValueError(
            f"to_sb3 takes the agents sac, td3 and ddpg, got {type(agent).__name__}: of the others, ppo and a2c have "
            "their like in SB3, and actor-critic has none"
        )
    if not isinstance(agent.actor, StackedMLP):
        raise ValueError(
            "to_sb3 takes agents whose networks are plain multilayer perceptrons, this one's see images through "
            'convolutions: train with --torso mlp, or with GumbelSAC("CnnPolicy", …) from the start'
        )
    if not 0 <= member < agent.num_members:
        raise ValueError(f"member must be from 0 to {agent.num_members - 1}, got {member}")
    model = kinds[0][1]("MlpPolicy", env, **{**_arguments_of(agent, member), **arguments})
    _check_spaces(agent, model.observation_space, model.action_space)
    policy, critics = model.policy, agent.num_critics
    pairs: list[tuple[nn.Module, nn.Module, int]] = [
        (agent.actor, policy.actor.network, 1),
        (agent.path, policy.actor.path, 1),
        (agent.critic, policy.critic.ensemble, critics),
        (agent.target_critic, policy.critic_target.ensemble, critics),
    ]
    if policy.actor_target is not None:
        pairs.append((agent.target_actor, policy.actor_target.network, 1))
    for source, target, rows in pairs:
        _copy(source, target, slice(member * rows, (member + 1) * rows), slice(0, rows))
    return model


def from_sb3(model: GumbelOffPolicyAlgorithm, *, seed: int = 0) -> OffPolicyAgent:
    """Return a gumbelrl agent with one member that acts as an SB3 model does.

    Args:
        model: a `GumbelSAC`, `GumbelTD3` or `GumbelDDPG` with "MlpPolicy".
        seed: of the agent's noise.

    Raises:
        ValueError: the model is another one, or has a features extractor, layers or an activation that the agents of
            gumbelrl do not have.
    """
    kinds = [(kind, config) for kind, config, known in PAIRS if type(model) is known]
    if not kinds:
        raise ValueError(f"from_sb3 takes GumbelSAC, GumbelTD3 and GumbelDDPG, got {type(model).__name__}")
    kind, config = kinds[0]
    policy = model.policy
    critics = policy._given["n_critics"]
    if critics != kind.num_critics:
        raise ValueError(f"gumbelrl's {kind.__name__} has {kind.num_critics} critics, the model has {critics}")
    agent = kind(
        config(**_settings_of(model)),
        layout=model.layout,
        num_features=num_features(model.observation_space),
        seeds=(seed,),
        estimator=model.estimator,
        critic=model.critic_name,
        temperature=parse_temperature(policy._given["temperature"]),
        observation_space=model.observation_space,
        device=model.device,
    )
    agent.set_progress(0.0, temperature=model._temperature_now())
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (policy.actor.network, agent.actor),
        (policy.actor.path, agent.path),
        (policy.critic.ensemble, agent.critic),
        (policy.critic_target.ensemble, agent.target_critic),
    ]
    if policy.actor_target is not None:
        pairs.append((policy.actor_target.network, agent.target_actor))
    for source, target in pairs:
        _copy(source, target, slice(None), slice(None))
    if isinstance(model, GumbelEntropyAlgorithm) and model.ent_coef != 0:
        agent.log_entropy_coefficient.copy_(model.log_ent_coef)
    return agent


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module, rows: slice, into: slice) -> None:
    """Copy parameters, in place: an agent's are views of one flat tensor."""
    given, held = dict(source.named_parameters()), dict(target.named_parameters())
    shapes = [{name: tuple(p.shape[1:]) for name, p in parameters.items()} for parameters in (given, held)]
    if shapes[0] != shapes[1]:
        odd = min(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise ValueError(
            f"the networks do not coincide: {odd[0]} of shape {odd[1]} is on one side alone; only plain multilayer "
            "perceptrons go over"
        )
    for name, parameter in given.items():
        held[name][into].copy_(parameter[rows])


def _arguments_of(agent: OffPolicyAgent, member: int) -> dict[str, Any]:
    config, path = agent.config, agent.path
    critic = next(name for name, kind in CRITICS.items() if type(agent.critic.critic) is kind)
    rate = config.actor_learning_rate
    arguments: dict[str, Any] = {
        "estimator": path.estimator.name,
        "critic": critic,
        "temperature": _temperature_of(path.learned, float(path.scheduled_temperature)),
        "baseline": config.baseline,
        "num_samples": config.num_samples,
        "learning_rate": LinearSchedule(config.actor_learning_rate, 0.0, 1.0)
        if config.anneal
        else config.actor_learning_rate,
        "critic_rate_factor": config.critic_learning_rate / rate,
        "buffer_size": config.replay_capacity,
        "learning_starts": config.learning_starts,
        "batch_size": config.batch_size,
        "tau": config.polyak,
        "gamma": config.discount,
        "n_steps": config.return_steps,
        "exploration_rate": float(agent.epsilon),
        "device": agent.layout.device,
        "policy_kwargs": {
            "net_arch": list(config.hidden),
            "activation_fn": ACTIVATION_CLASSES[config.activation],
            "layer_norm": config.layer_norm,
            "logit_bound": config.logit_bound,
            "normalize_images": False,
        },
    }
    if isinstance(agent, TD3):
        arguments |= {"policy_delay": agent.config.policy_delay, "smoothing": agent.config.smoothing}
    return arguments | _entropy_of(agent, member)


def _temperature_of(learned: nn.Module | None, scheduled: float) -> str:
    if isinstance(learned, StateTemperature):
        initial = learned.floor + float(functional.softplus(torch.tensor(learned.start)))
        return f"state:{initial}:{learned.floor}"
    if isinstance(learned, LearnedTemperature):
        return f"learned:{learned.floor + 1.0}:{learned.floor}"  # where it is now comes with the weights
    return str(scheduled)


def _entropy_of(agent: OffPolicyAgent, member: int) -> dict[str, Any]:
    share = agent.config.target_entropy
    if share == 0:
        return {"ent_coef": 0.0}
    largest = sum(math.log(count) for count in agent.layout.choice_counts)
    return {
        "ent_coef": f"auto_{float(agent.log_entropy_coefficient[member].exp())}",
        "ent_coef_rate": agent.config.coefficient_rate,
        "target_entropy": "auto" if share == TARGET_SHARE else share * largest,
    }


def _settings_of(model: GumbelOffPolicyAlgorithm) -> dict[str, Any]:
    given = model.policy._given
    arch, activation = given["net_arch"], given["activation_fn"]
    if isinstance(arch, dict):
        if arch["pi"] != arch["qf"]:
            raise ValueError(f"gumbelrl's agents have equal layers in actor and critics, the model has {arch}")
        arch = arch["pi"]
    if activation not in ACTIVATION_NAMES:
        raise ValueError(
            f"gumbelrl's agents know the activations SiLU, ReLU and Tanh, the model has {activation.__name__}"
        )
    if not isinstance(model.policy.actor.features_extractor, FlattenExtractor) or is_image_space(
        model.observation_space
    ):
        raise ValueError(
            "the model sees its observations through a features extractor, which gumbelrl's agents do not have: only "
            "models with 'MlpPolicy' and vectors or Discrete states for observations go over"
        )
    settings: dict[str, Any] = {
        "hidden": tuple(arch),
        "torso": "mlp",
        "activation": ACTIVATION_NAMES[activation],
        "layer_norm": given["layer_norm"],
        "logit_bound": given["logit_bound"],
        "baseline": given["baseline"],
        "num_samples": given["num_samples"],
        "batch_size": model.batch_size,
        "learning_starts": model.learning_starts,
        "replay_capacity": model.buffer_size,
        "return_steps": model._return_steps(),
        "discount": model.gamma,
        "polyak": model.tau,
        "epsilon": model._exploration_rate_now(),
        "final_epsilon": model._exploration_rate_now(),
        "actor_learning_rate": model.lr_schedule(1.0),
        "critic_learning_rate": model.lr_schedule(1.0) * model.critic_rate_factor,
        "anneal": model.lr_schedule(0.0) == 0.0,
        "target_entropy": 0.0,
    }
    if type(model) is GumbelTD3:
        settings |= {"policy_delay": model.policy_delay, "smoothing": model.smoothing}
    if isinstance(model, GumbelEntropyAlgorithm) and model.ent_coef != 0:
        largest = sum(math.log(count) for count in model.layout.choice_counts)
        share = TARGET_SHARE if model.target_entropy == "auto" else float(model.target_entropy) / largest
        rate = model.ent_coef_rate if isinstance(model.ent_coef, str) else 0.0
        settings |= {"target_entropy": share, "coefficient_rate": rate}
    return settings


def _check_spaces(agent: OffPolicyAgent, observation: spaces.Space, action: spaces.Space) -> None:
    if action != agent.layout.space:
        raise ValueError(f"the agent acts in {agent.layout.space}, the environment takes {action}")
    if isinstance(observation, spaces.Dict) or is_image_space(observation):
        raise ValueError(
            f"observations {observation} reach SB3's networks in another order than gumbelrl's: only vectors and "
            "Discrete states go over"
        )
    expected = next(agent.actor.parameters()).shape[1]
    if num_features(observation) != expected:
        raise ValueError(f"the agent sees {expected} features, the environment's {observation} has another number")
