"""Convolutions: torch's own, one a member, and what counts as an image."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from gumbelrl.agents import AGENTS, CRITICS, ActorCritic, ActorCriticConfig, RunError, Trainer
from gumbelrl.agents.perception.convolution import (
    Convolution,
    ConvolutionalEncoder,
    StackedConvolution,
    image_shape,
    layers_for,
)
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.perception.torsos import ConvolutionalTorso, make_torso, resolve_torso
from gumbelrl.envs import MinAtarBreakout
from gumbelrl.policies import ActionLayout
from gumbelrl.policies.temperature import Constant
from gumbelrl.random import RandomStreams

BOARD = spaces.Box(0, 1, (10, 10, 4), np.bool_)
FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


@pytest.mark.parametrize("layer", [Convolution(5, 3, 1), Convolution(6, 4, 2), Convolution(2, 1, 1)])
def test_a_convolution_is_torchs_with_each_members_own_kernel(layer):
    ours = StackedConvolution(RandomStreams([1, 2]), 3, layer)
    torch.nn.init.normal_(ours.linear.bias)
    images = torch.randn(2, 4, 9, 12, 3)
    outputs = ours(images)
    for member in range(2):
        kernel = ours.linear.weight[member].view(layer.window, layer.window, 3, layer.channels).permute(3, 2, 0, 1)
        theirs = functional.conv2d(
            images[member].permute(0, 3, 1, 2), kernel, ours.linear.bias[member, 0], stride=layer.stride
        )
        torch.testing.assert_close(outputs[member], theirs.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (BOARD, (10, 10, 4, False)),
        (FRAMES, (84, 84, 4, True)),
        (spaces.Box(0, 255, (210, 160, 3), np.uint8), (210, 160, 3, False)),
        (spaces.Box(0, 1, (10, 10, 10)), (10, 10, 10, False)),
        (spaces.Box(0, 1, (10, 10)), None),
        (spaces.Box(0, 1, (2, 2, 5)), None),
        (spaces.Discrete(5), None),
        (None, None),
    ],
)
def test_what_is_an_image(space, shape):
    assert image_shape(space) == shape
    assert resolve_torso("auto", space) == ("mlp" if shape is None else "conv")


def test_frames_with_channels_in_front_are_the_same_images():
    first = ConvolutionalEncoder(RandomStreams([0]), spaces.Box(0, 1, (2, 6, 7)))
    last = ConvolutionalEncoder(RandomStreams([0]), spaces.Box(0, 1, (6, 7, 2)))
    images = torch.rand(1, 3, 6, 7, 2)
    assert torch.equal(first(images.movedim(-1, 2).flatten(2)), last(images.flatten(2)))


def test_bytes_become_fractions_unless_they_are_normalised():
    images = torch.rand(1, 2, 4 * 84 * 84)
    scaled = ConvolutionalEncoder(RandomStreams([0]), FRAMES)
    plain = ConvolutionalEncoder(RandomStreams([0]), FRAMES, normalised=True)
    torch.testing.assert_close(scaled(images * 255.0), plain(images))
    assert layers_for(scaled.shape)[0] == (32, 8, 4)
    assert scaled.num_features == 64 * 7 * 7  # Mnih et al. 2015


def test_members_are_apart():
    torso = make_torso(RandomStreams([1, 2]), 400, 3, torso="auto", space=BOARD, hidden=(16,))
    assert isinstance(torso, ConvolutionalTorso)
    observation = torch.rand(2, 5, 400, requires_grad=True)
    outputs = torso(observation)
    alone = make_torso(RandomStreams([2]), 400, 3, torso="auto", space=BOARD, hidden=(16,))
    torch.testing.assert_close(alone(observation[1:]), outputs[1:])
    (slope,) = torch.autograd.grad(outputs[0].sum(), observation)
    assert (slope[0] != 0).any()
    assert (slope[1] == 0).all()


def test_what_is_not_an_image_is_refused():
    with pytest.raises(RunError, match=r"needs images, .* use the mlp torso"):
        make_torso(RandomStreams([0]), 18, 5, torso="conv", space=spaces.Box(0, 1, (6, 3)))


SMALL = {"num_envs": 2, "rollout_steps": 4, "hidden": (8,)}
STORED = {**SMALL, "learning_starts": 8, "batch_size": 8, "replay_capacity": 64, "torso": "conv"}


@pytest.mark.parametrize("name", [name for name in AGENTS if name != "actor-critic"])
def test_other_agents_see_images_too(name):
    entry, env = AGENTS[name], MinAtarBreakout(4)
    agent = entry.agent(
        entry.config(**(STORED if entry.uses_estimator else SMALL)),
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=400,
        observation_space=env.single_observation_space,
        seeds=(0, 1),
        **({"estimator": "gumbel", "critic": "joint", "temperature": Constant(1.0)} if entry.uses_estimator else {}),
    )
    assert isinstance(agent.actor, ConvolutionalTorso)
    trainer = Trainer(agent, env, seeds=(0, 1), total_steps=16, temperature=lambda progress, step: 1.0)
    kernel = agent.actor.encoder.layers[0].linear.weight.clone()
    trainer.iterate()
    metrics = trainer.iterate()
    assert metrics["gradient/norm"].isfinite().all()
    assert (agent.actor.encoder.layers[0].linear.weight != kernel).any()


def make_trainer(seeds, critic="linear"):
    config = ActorCriticConfig(num_envs=4, rollout_steps=8, epochs=1, hidden=(16,), diagnostics_interval=2)
    env = MinAtarBreakout(len(seeds) * config.num_envs)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        observation_space=env.single_observation_space,
        seeds=seeds,
        critic=critic,
    )
    return Trainer(agent, env, seeds=seeds, total_steps=1000, temperature=lambda progress, step: 1.0)


@pytest.mark.parametrize("critic", CRITICS)
def test_a_member_learns_from_images_what_it_would_alone(critic):
    together, alone = make_trainer((3, 4), critic), make_trainer((4,), critic)
    assert isinstance(together.agent.actor, ConvolutionalTorso)
    for _ in range(3):
        ours, theirs = together.iterate(), alone.iterate()
        assert torch.equal(together.observation[1], alone.observation[0])
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][1:2], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)
