"""One update of sac with a joint critic is stable-baselines3's: its own `SAC.train`, same weights, batch and noise.

Where theirs needs a Gaussian actor it is given one that does what ours does, written with torch's modules: a
straight-through Gumbel-softmax sample and minus the exact entropy for its log-probability. They update one network
after another, ours sees all as they were; so the critics are compared with their actor held still, and the actor with
their critics held still.
"""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import SAC as TheirSAC
from stable_baselines3.common.buffers import ReplayBufferSamples
from stable_baselines3.common.logger import Logger
from torch import nn

from gumbelrl.agents import SAC, SACConfig
from gumbelrl.agents.replay import Batch
from gumbelrl.policies import ActionLayout, sampling

FEATURES, GROUPS, CHOICES, BATCH, SEEDS = 5, 2, 3, 32, (0, 1)
MEMBER = 1  # the second of two is compared, so that its neighbour would show
RATE = 0.02
CONFIG = SACConfig(
    hidden=(16, 16),
    activation="relu",
    layer_norm=False,
    batch_size=BATCH,
    actor_learning_rate=3e-3,
    critic_learning_rate=2e-3,
    coefficient_rate=RATE,
    target_entropy=0.4,
    entropy_coefficient=0.3,
)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Nothing(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,), np.float32)
    action_space = spaces.Box(0.0, 1.0, (GROUPS * CHOICES,), np.float32)


class TheirActor(nn.Module):
    """What `SAC.train` asks of its actor, for discrete actions."""

    def __init__(self, network, noise):
        super().__init__()
        self.network, self.noise = network, noise
        self.optimizer = torch.optim.Adam(network.parameters(), lr=CONFIG.actor_learning_rate)

    def set_training_mode(self, mode):
        pass

    def action_log_prob(self, observation):
        logits = self.network(observation).view(-1, GROUPS, CHOICES)
        relaxed = (logits + self.noise.pop(0)).softmax(-1)
        hard = torch.nn.functional.one_hot(relaxed.argmax(-1), CHOICES).to(relaxed.dtype)
        entropy = torch.distributions.Categorical(logits=logits).entropy().sum(-1)
        return (hard + relaxed - relaxed.detach()).flatten(1), -entropy


def copy_weights(stacked, row, target):
    """Copy one of a stacked network's rows into a torch network."""
    layers = [*stacked.hidden_layers, stacked.last_layer]
    linears = [module for module in target.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for ours, theirs in zip(layers, linears, strict=True):
            theirs.weight.copy_(ours.weight[row].t())
            theirs.bias.copy_(ours.bias[row, 0])


def check_weights(stacked, row, target):
    layers = [*stacked.hidden_layers, stacked.last_layer]
    linears = [module for module in target.modules() if isinstance(module, nn.Linear)]
    for ours, theirs in zip(layers, linears, strict=True):
        torch.testing.assert_close(ours.weight[row].t(), theirs.weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(ours.bias[row, 0], theirs.bias, rtol=1e-12, atol=1e-14)


def make_ours():
    layout = ActionLayout.from_space(spaces.MultiDiscrete([CHOICES] * GROUPS))
    agent = SAC(CONFIG, layout=layout, num_features=FEATURES, seeds=SEEDS, estimator="gumbel", critic="joint")
    assert agent.critic_parameters.flat.dtype == torch.float64
    with torch.no_grad():  # targets apart from the critics, and a policy that is not uniform
        flat = agent.target_critic_parameters.flat
        flat.add_(0.1 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(1)))
        agent.actor.last_layer.weight.mul_(50.0)
    return agent


def make_theirs(agent, noise):
    model = TheirSAC("MlpPolicy", Nothing(), policy_kwargs={"net_arch": list(CONFIG.hidden)}, tau=CONFIG.polyak)
    model.set_logger(Logger(None, []))
    layers = [nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, GROUPS * CHOICES)]
    model.actor = TheirActor(nn.Sequential(*layers), noise)
    model.policy.actor = model.actor
    copy_weights(agent.actor, MEMBER, model.actor.network)
    for theirs, ours in ((model.critic, agent.critic), (model.critic_target, agent.target_critic)):
        for index, network in enumerate(theirs.q_networks):
            copy_weights(ours.critic.network, 2 * MEMBER + index, network)
    model.critic.optimizer = torch.optim.Adam(model.critic.parameters(), lr=CONFIG.critic_learning_rate)
    largest = GROUPS * np.log(CHOICES)
    model.log_ent_coef = agent.log_entropy_coefficient[MEMBER : MEMBER + 1].clone().requires_grad_()
    model.ent_coef_optimizer = torch.optim.SGD([model.log_ent_coef], lr=RATE / largest)
    model.target_entropy = float(CONFIG.target_entropy * largest)
    model._update_learning_rate = lambda optimizers: None  # each keeps its own
    return model


def make_batch():
    generator = torch.Generator().manual_seed(2)

    def normal(*shape):  # their preprocessing rounds observations to float32
        return torch.randn(len(SEEDS), BATCH, *shape, generator=generator).float().double()

    index = torch.randint(CHOICES, (len(SEEDS), BATCH, GROUPS), generator=generator)
    done = torch.rand(len(SEEDS), BATCH, generator=generator) < 0.3
    batch = Batch(
        observation=normal(FEATURES),
        action=torch.nn.functional.one_hot(index, CHOICES).double(),
        reward=normal(),
        discount=CONFIG.discount * ~done,
        next_observation=normal(FEATURES),
    )
    theirs = ReplayBufferSamples(
        observations=batch.observation[MEMBER],
        actions=batch.action[MEMBER].flatten(1),
        next_observations=batch.next_observation[MEMBER],
        dones=done[MEMBER].double().unsqueeze(1),
        rewards=batch.reward[MEMBER].unsqueeze(1),
    )
    return batch, theirs


@pytest.fixture
def updated(monkeypatch):
    """Our agent before and after an update, the batch, and the noise that it drew, in their order."""
    drawn = []
    draw = sampling.gumbel_noise

    def remember(logits, *, generator=None):
        drawn.append(draw(logits, generator=generator))
        return drawn[-1]

    monkeypatch.setattr(sampling, "gumbel_noise", remember)
    before, agent = make_ours(), make_ours()
    batch, theirs = make_batch()
    metrics = agent._step(batch, climb=True)
    next_noise, noise = (each[MEMBER] for each in drawn)  # we look ahead first, they climb first
    return before, agent, theirs, [noise, next_noise], metrics


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("compared", ["critics", "actor"])
def test_one_update_is_theirs(updated, compared):
    before, agent, batch, noise, metrics = updated
    model = make_theirs(before, noise)
    model.replay_buffer.sample = lambda *args, **options: batch
    held = model.actor.optimizer if compared == "critics" else model.critic.optimizer
    for group in held.param_groups:
        group["lr"] = 0.0
    model.train(gradient_steps=1, batch_size=BATCH)
    logged = model.logger.name_to_value
    assert metrics["train/critic_loss"][MEMBER].item() == pytest.approx(logged["train/critic_loss"], rel=1e-12)
    assert metrics["policy/entropy_coefficient"][MEMBER].item() == pytest.approx(logged["train/ent_coef"], rel=1e-12)
    torch.testing.assert_close(agent.log_entropy_coefficient[MEMBER : MEMBER + 1], model.log_ent_coef.detach())
    if compared == "actor":
        check_weights(agent.actor, MEMBER, model.actor.network)
    else:
        for theirs, ours in ((model.critic, agent.critic), (model.critic_target, agent.target_critic)):
            for index, network in enumerate(theirs.q_networks):
                check_weights(ours.critic.network, 2 * MEMBER + index, network)
