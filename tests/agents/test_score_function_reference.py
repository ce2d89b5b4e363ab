"""Updates of ppo and a2c are stable-baselines3's: its own `train`, from the same weights, rollouts and minibatches.

In float64, over two rollouts, so that optimiser states count too. The second of two members is compared: had its
neighbour any part in advantages, clipping or step, it would show.
"""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C as TheirA2C
from stable_baselines3 import PPO as TheirPPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv

from gumbelrl.agents.a2c import A2C, A2CConfig
from gumbelrl.agents.ppo import PPO, PPOConfig
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout
from gumbelrl.random import RandomStreams

FEATURES, TIME, ENVS, SEEDS = 3, 6, 4, (5, 6)
MEMBER = 1
PROGRESS = 0.25
COMMON = {
    "num_envs": ENVS,
    "rollout_steps": TIME,
    "learning_rate": 0.01,
    "discount": 0.95,
    "reward_scale": 0.5,
    "trace": 0.9,
    "entropy_coefficient": 0.02,
    "value_coefficient": 0.4,
    "hidden": (8, 8),
}
SPACES = {"discrete": spaces.Discrete(3), "factored": spaces.MultiDiscrete([3, 2])}


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Double(FlattenExtractor):
    """They make observations float32 whatever the network is."""

    def forward(self, observations):
        return super().forward(observations).double()


def make_pair(ours, config, theirs, action_space, **settings):
    """Return our agent and theirs, with the weights of our compared member."""
    layout = ActionLayout.from_space(action_space)
    agent = ours(config, layout=layout, num_features=FEATURES, seeds=SEEDS)
    box = spaces.Box(-10.0, 10.0, (FEATURES,), np.float32)

    class Nothing(gymnasium.Env):
        observation_space = box

    Nothing.action_space = action_space
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU}[config.activation]
    hidden = list(config.hidden)
    model = theirs(
        "MlpPolicy",
        DummyVecEnv([Nothing] * ENVS),
        learning_rate=lambda remaining: config.learning_rate * remaining,
        n_steps=TIME,
        gamma=config.discount,
        gae_lambda=config.trace,
        ent_coef=config.entropy_coefficient,
        vf_coef=config.value_coefficient,
        max_grad_norm=config.max_grad_norm,
        normalize_advantage=config.normalise_advantages,
        device="cpu",
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": activation,
            "features_extractor_class": Double,
        },
        **settings,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._current_progress_remaining = 1.0 - PROGRESS
    agent.set_progress(PROGRESS, temperature=1.0)
    with torch.no_grad():
        for (weight, bias), layer in layer_pairs(agent, model):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return agent, model


def layer_pairs(agent, model):
    """Return our compared member's ((weight, bias), their layer), choices that do not exist left out."""
    mask = agent.layout.static_mask
    exists = slice(None) if mask is None else mask.flatten()
    policy, pairs = model.policy, []
    for network, torso, head, outputs in (
        (agent.actor, policy.mlp_extractor.policy_net, policy.action_net, exists),
        (agent.value_network, policy.mlp_extractor.value_net, policy.value_net, slice(None)),
    ):
        layers = [*network.hidden_layers, network.last_layer]
        for layer, other in zip(layers, [torso[0], torso[2], head], strict=True):
            columns = outputs if layer is network.last_layer else slice(None)
            weight, bias = layer.weight[MEMBER].detach(), layer.bias[MEMBER, 0].detach()
            pairs.append(((weight[:, columns].T, bias[columns]), other))
    return pairs


def make_rollout(layout, seed):
    """A rollout that hangs together, with ends of both kinds, of another policy than the agent's."""
    generator = torch.Generator().manual_seed(seed)
    shape = (TIME, len(SEEDS), ENVS)
    chance = torch.rand(shape, generator=generator)
    terminated, truncated = chance < 0.15, chance > 0.8
    final = torch.randn(*shape, FEATURES, generator=generator)
    # Only what float32 holds: theirs makes observations that.
    final, fresh = final.float().double(), torch.randn(*shape, FEATURES, generator=generator).float().double()
    observation = torch.where((terminated | truncated).unsqueeze(-1), fresh, final).roll(1, 0)
    logits = 0.5 * torch.randn(*shape, layout.num_groups, layout.num_choices, generator=generator)
    if layout.static_mask is not None:
        logits = torch.where(layout.static_mask, logits, torch.finfo(logits.dtype).min / 4)
    index = torch.distributions.Categorical(logits=logits).sample()
    return Transition(
        observation=observation,
        logits=logits,
        action=torch.nn.functional.one_hot(index, layout.num_choices).double(),
        reward=torch.randn(shape, generator=generator),
        terminated=terminated,
        truncated=truncated,
        final_observation=final,
    )


def fill(model, rollout, layout, config):
    """Put our compared member's part of the rollout in their buffer, as their `collect_rollouts` would."""
    own = SimpleNamespace(**{k: v[:, MEMBER] for k, v in vars(rollout).items() if v is not None})
    with torch.no_grad():
        values, after = (
            model.policy.predict_values(x.flatten(0, 1)).view(TIME, ENVS)
            for x in (own.observation, own.final_observation)
        )
    ended = (own.terminated | own.truncated).numpy()
    reward = own.reward * config.reward_scale + config.discount * after * own.truncated
    log_probs = torch.distributions.Categorical(logits=own.logits).log_prob(own.action.argmax(-1)).sum(-1)
    buffer = model.rollout_buffer
    buffer.reset()
    buffer.observations = own.observation.numpy()
    buffer.actions = layout.from_one_hot(own.action).view(TIME, ENVS, -1).numpy()
    buffer.rewards, buffer.values, buffer.log_probs = reward.numpy(), values.numpy(), log_probs.numpy()
    buffer.episode_starts = np.concatenate([np.ones((1, ENVS)), ended[:-1]])
    buffer.advantages = np.zeros((TIME, ENVS))
    buffer.full = True
    buffer.compute_returns_and_advantage(after[-1], ended[-1])


def use_our_minibatches(monkeypatch, agent, epochs):
    """Let theirs go through the rows in the order that our agent is about to draw; they count environments first."""
    copy = RandomStreams(SEEDS)
    copy.load_state_dict(agent.streams.state_dict())
    orders = [copy.permutation(TIME * ENVS)[MEMBER].numpy() for _ in range(epochs)]
    orders = iter([order % ENVS * TIME + order // ENVS for order in orders])
    monkeypatch.setattr(np.random, "permutation", lambda length: next(orders))


def check_same(agent, model, metrics):
    for (weight, bias), layer in layer_pairs(agent, model):
        torch.testing.assert_close(weight, layer.weight.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(bias, layer.bias.detach(), rtol=0, atol=1e-10)
    logged = model.logger.name_to_value
    for name, other, factor in (
        ("train/policy_loss", "train/policy_gradient_loss", 1.0),
        ("train/policy_loss", "train/policy_loss", 1.0),
        ("train/critic_loss", "train/value_loss", 0.5),
        ("policy/entropy", "train/entropy_loss", -1.0),
        ("policy/clip_fraction", "train/clip_fraction", 1.0),
        ("train/explained_variance", "train/explained_variance", 1.0),
    ):
        if other in logged and (other.endswith("variance") or agent.steps_a_rollout == 1):
            assert metrics[name][MEMBER].item() == pytest.approx(factor * logged[other], rel=1e-9), name


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1, "minibatches": 1},
        {},
        {"value_clip": 0.1},
        {"normalise_advantages": False, "activation": "relu", "max_grad_norm": 0.1},
        {"optimizer": "rmsprop", "anneal_clip": False},
    ],
    ids=lambda change: ", ".join(change) or "plain",
)
def test_ppo_is_stable_baselines3s(monkeypatch, change, space):
    config = PPOConfig(**{**COMMON, "epochs": 3, "minibatches": 2, "clip": 0.3} | change)
    agent, model = make_pair(
        PPO,
        config,
        TheirPPO,
        SPACES[space],
        n_epochs=config.epochs,
        batch_size=TIME * ENVS // config.minibatches,
        clip_range=lambda remaining: config.clip * (remaining if config.anneal_clip else 1.0),
        clip_range_vf=config.value_clip,
    )
    if config.optimizer == "rmsprop":
        model.policy.optimizer = torch.optim.RMSprop(model.policy.parameters(), lr=1.0, eps=1e-5)
    agent.steps_a_rollout = config.epochs * config.minibatches
    for seed in range(2):
        rollout = make_rollout(agent.layout, seed)
        fill(model, rollout, agent.layout, config)
        use_our_minibatches(monkeypatch, agent, config.epochs)
        model.train()
        check_same(agent, model, agent.update(rollout))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "change",
    [{}, {"normalise_advantages": False}, {"optimizer": "adam"}],
    ids=lambda change: ", ".join(change) or "plain",
)
def test_a2c_is_stable_baselines3s(change, space):
    config = A2CConfig(**COMMON | change)
    agent, model = make_pair(A2C, config, TheirA2C, SPACES[space], use_rms_prop=config.optimizer == "rmsprop")
    agent.steps_a_rollout = 1
    if config.optimizer == "adam":
        model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=1.0, eps=1e-5)
    for seed in range(2):
        rollout = make_rollout(agent.layout, seed)
        fill(model, rollout, agent.layout, config)
        model.train()
        check_same(agent, model, agent.update(rollout))


def test_networks_start_as_theirs_do():
    """Same sizes; orthogonal with gains √2, .01 and 1; zero biases."""
    agent, model = make_pair(PPO, PPOConfig(**COMMON), TheirPPO, SPACES["discrete"], batch_size=TIME * ENVS)
    fresh = TheirPPO(
        "MlpPolicy",
        model.env,
        n_steps=TIME,
        batch_size=TIME * ENVS,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": [8, 8], "vf": [8, 8]}},
    )
    theirs = [layer for _, layer in layer_pairs(agent, fresh)]
    for ((weight, bias), _), layer in zip(layer_pairs(agent, model), theirs, strict=True):
        for ours, other in ((weight, layer.weight), (bias, layer.bias)):
            assert ours.shape == other.shape
        ours, other = (torch.linalg.svdvals(each.detach()).double() for each in (weight, layer.weight))
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)
        assert (bias == 0).all()
