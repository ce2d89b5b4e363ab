"""An update of the SB3 algorithms is the update of gumbelrl's agents, from the same weights and the same batch."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import DDPG, SAC, TD3, DDPGConfig, SACConfig, TD3Config
from gumbelrl.agents.replay import Batch
from gumbelrl.agents.sb3 import GumbelSAC, from_sb3, load_weights, save_weights, to_sb3
from gumbelrl.policies import ActionLayout, parse_temperature

PAIRS = {"sac": (SAC, SACConfig), "td3": (TD3, TD3Config), "ddpg": (DDPG, DDPGConfig)}
SMALL = {"learning_starts": 8, "batch_size": 16, "buffer_size": 100}


class Arm(gym.Env):
    """Observations are noise; the reward is the sum of the action."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.count += 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, float(np.sum(action)), self.count == 5, False, {}


def agent_of(name, action_space, *, seeds=(0, 1), estimator="exact", critic="linear", temperature="1.0", **settings):
    kind, config = PAIRS[name]
    rates = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "hidden": (16, 8)}
    return kind(
        config(**{**rates, **settings}),
        layout=ActionLayout.from_space(action_space),
        num_features=3,
        seeds=seeds,
        estimator=estimator,
        critic=critic,
        temperature=parse_temperature(temperature),
        observation_space=Arm.observation_space,
    )


def networks(agent, model, member):
    """Pairs of parameters that should be equal."""
    policy, size = model.policy, agent.num_critics
    pairs = [(agent.actor, policy.actor.network, 1), (agent.critic, policy.critic.ensemble, size)]
    pairs.append((agent.target_critic, policy.critic_target.ensemble, size))
    if policy.actor_target is not None:
        pairs.append((agent.target_actor, policy.actor_target.network, 1))
    for ours, theirs, rows in pairs:
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            yield one[member * rows : (member + 1) * rows], other


@pytest.mark.parametrize("critic", ["linear", "multilinear"])
@pytest.mark.parametrize("name", PAIRS)
def test_updates_are_those_of_gumbelrls_agents(name, critic):
    # `exact` and these critics draw no noise, so that the two may be compared number by number.
    space = spaces.Discrete(4) if critic == "linear" else spaces.MultiDiscrete([2, 3])
    agent = agent_of(name, space, seeds=(0,), critic=critic)
    model = to_sb3(agent, Arm(space), **SMALL, gradient_steps=0, seed=0).learn(40)
    for _ in range(4):
        batch = model._draw(16)
        ours = {field.name: getattr(batch, field.name, None) for field in dataclasses.fields(Batch)}
        for part in ("observation", "next_observation"):
            ours[part] = ours[part].unsqueeze(0)
        for part in ("mask", "next_mask"):
            ours[part] = None  # the static one is the layout's own affair
        model._n_updates += 1
        agent.num_updates += 1
        theirs_found = model._step(batch)
        ours_found = agent._step(Batch(**ours), climb=agent.actor_is_due())
        torch.testing.assert_close(theirs_found["critic_loss"], ours_found["train/critic_loss"][0])
    for ours_now, theirs_now in networks(agent, model, 0):
        torch.testing.assert_close(ours_now, theirs_now, rtol=1e-4, atol=1e-6)
    if name == "sac":
        torch.testing.assert_close(agent.log_entropy_coefficient, model.log_ent_coef)


@pytest.mark.parametrize("critic", ["linear", "joint"])
@pytest.mark.parametrize("temperature", ["0.7", "learned:1.0:0.1", "state:0.8:0.2"])
@pytest.mark.parametrize("name", PAIRS)
def test_agents_go_to_sb3_and_back(name, temperature, critic):
    space = spaces.MultiDiscrete([2, 3])
    agent = agent_of(name, space, estimator="gumbel", critic=critic, temperature=temperature, logit_bound=3.0)
    agent.set_progress(0.0, temperature=parse_temperature(temperature).value(0.0, 0))
    with torch.no_grad():
        agent.actor_parameters.flat.normal_()
    observation = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    features = torch.as_tensor(observation).expand(2, 50, 3)
    expected = agent.layout.from_one_hot(agent.policy(features, None).mode)
    for member in range(2):
        model = to_sb3(agent, Arm(space), member=member)
        np.testing.assert_array_equal(model.predict(observation, deterministic=True)[0], expected[member])
        for ours, theirs in networks(agent, model, member):
            assert torch.equal(ours, theirs)
        back = from_sb3(model)
        logits = back.policy(features[:1], None).logits[0]  # one member alone: products may round otherwise
        torch.testing.assert_close(logits, agent.policy(features, None).logits[member], rtol=1e-5, atol=1e-5)
        assert back.config.hidden == (16, 8)
        assert back.config.logit_bound == 3.0
        model.learn(20)


@pytest.mark.parametrize("temperature", ["learned:1.0:0.1", "state:0.8:0.2"])
def test_learned_temperatures_go_over(temperature):
    agent = agent_of("sac", spaces.Discrete(3), estimator="gumbel", temperature=temperature)
    features = torch.randn(2, 5, 3)
    with torch.no_grad():
        for parameter in agent.path.parameters():
            parameter.add_(torch.randn_like(parameter))
    expected = agent.path.temperature(features).expand(2, 5, 1, 1)
    for member in range(2):
        model = to_sb3(agent, Arm(spaces.Discrete(3)), member=member)
        found = model.actor.path.temperature(features[member : member + 1]).expand(1, 5, 1, 1)
        torch.testing.assert_close(found[0], expected[member])


def test_an_agent_from_a_model_can_be_saved_and_goes_on():
    model = to_sb3(agent_of("sac", spaces.Discrete(3)), Arm(spaces.Discrete(3)), **SMALL).learn(30)
    agent = from_sb3(model, seed=5)
    other = from_sb3(model, seed=6)
    other.load_state_dict(agent.state_dict())
    assert torch.equal(other.actor_parameters.flat, agent.actor_parameters.flat)
    assert torch.equal(agent.log_entropy_coefficient, model.log_ent_coef)


@pytest.mark.parametrize("name", PAIRS)
def test_weights_without_pickle(name, tmp_path):
    space = spaces.Discrete(3)
    first, second = (to_sb3(agent_of(name, space, seeds=(seed,)), Arm(space), **SMALL) for seed in (0, 1))
    first.learn(30)
    save_weights(first, tmp_path / "weights")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == ["checkpoint.json", "tensors.safetensors"]
    load_weights(second, tmp_path / "weights")
    for name_of, value in first.policy.state_dict().items():
        assert torch.equal(second.policy.state_dict()[name_of], value)
    moments = [each.critic.optimizer.state_dict() for each in (first, second)]
    assert moments[0]["param_groups"] == moments[1]["param_groups"]
    assert torch.equal(moments[0]["state"][0]["exp_avg"], moments[1]["state"][0]["exp_avg"])
    second.learn(20)


def test_weights_that_do_not_fit_are_refused_in_words(tmp_path):
    space = spaces.Discrete(3)
    model = to_sb3(agent_of("sac", space), Arm(space), **SMALL)
    save_weights(model, tmp_path / "weights")
    other = to_sb3(agent_of("sac", space, estimator="gumbel"), Arm(space), **SMALL)
    with pytest.raises(ValueError, match="holds a model with estimator exact, this one has gumbel"):
        load_weights(other, tmp_path / "weights")
    tensors = tmp_path / "weights" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is damaged: its checksum is not the one that was saved"):
        load_weights(model, tmp_path / "weights")


def test_what_does_not_go_over_is_refused_in_words():
    space = spaces.Discrete(3)
    agent = agent_of("sac", space)
    with pytest.raises(ValueError, match="to_sb3 takes the agents sac, td3 and ddpg, got object"):
        to_sb3(object(), Arm(space))
    with pytest.raises(ValueError, match="member must be from 0 to 1, got 2"):
        to_sb3(agent, Arm(space), member=2)
    with pytest.raises(ValueError, match=r"the agent acts in Discrete\(3\), the environment takes Discrete\(4\)"):
        to_sb3(agent, Arm(spaces.Discrete(4)))
    images = spaces.Box(0, 1, (10, 10, 4), np.float32)
    convolutional = SAC(
        SACConfig(),
        layout=ActionLayout.from_space(space),
        num_features=400,
        seeds=(0,),
        observation_space=images,
    )
    with pytest.raises(ValueError, match="see images through convolutions: train with --torso mlp"):
        to_sb3(convolutional, Arm(space))
    with pytest.raises(ValueError, match="choose one of linear, multilinear, joint, or train with gumbelrl's own"):
        to_sb3(agent_of("sac", space, critic="interpolated"), Arm(space))


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (
            {"activation_fn": torch.nn.ELU},
            "gumbelrl's agents know the activations SiLU, ReLU and Tanh, the model has ELU",
        ),
        ({"net_arch": {"pi": [8], "qf": [16]}}, "equal layers in actor and critics"),
        ({"n_critics": 3}, "has 2 critics, the model has 3"),
    ],
    ids=str,
)
def test_models_that_do_not_go_over_are_refused_in_words(policy_kwargs, message):
    model = GumbelSAC("MlpPolicy", Arm(spaces.Discrete(3)), policy_kwargs=policy_kwargs, **SMALL)
    with pytest.raises(ValueError, match=message):
        from_sb3(model)
