"""The gradient inside stable-baselines3's unmodified SAC and TD3 is ours: same weights, batch and noise, float64."""

import copy
from types import SimpleNamespace

import gymnasium
import pytest
import torch
from gymnasium import spaces

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.torch_layers import FlattenExtractor  # noqa: E402

from gumbelrl.envs import OneHotActions  # noqa: E402
from gumbelrl.policies import ESTIMATORS, gumbel_noise  # noqa: E402
from gumbelrl.policies.sb3 import GumbelSACPolicy, GumbelTD3Policy, pathwise_estimators, reparameterised  # noqa: E402

BATCH = 16


class DoubleFeatures(FlattenExtractor):
    """stable-baselines3 makes observations float32; the networks behind are float64."""

    def forward(self, observations):
        return super().forward(observations).double()


SMALL = {"net_arch": [16], "n_critics": 2, "features_extractor_class": DoubleFeatures}


class Still(gymnasium.Env):
    """Never stepped: only its spaces matter."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def fixed_batch(env, generator):
    """Return what a replay would: observations, and one-hot actions between -1 and 1."""

    def floats(*shape):
        return torch.randn(*shape, generator=generator).double()

    env.action_space.seed(0)
    actions = torch.stack([torch.as_tensor(env.action_space.sample()) for _ in range(BATCH)]).double()
    return SimpleNamespace(
        observations=floats(BATCH, 3),
        actions=2 * actions - 1,
        next_observations=floats(BATCH, 3),
        rewards=floats(BATCH, 1),
        dones=torch.zeros(BATCH, 1, dtype=torch.float64),
        discounts=None,
    )


def trained_once(algorithm, policy, space, **settings):
    """Make one gradient step of an unmodified agent; return it, its actor before, its batch and the noise before."""
    env = OneHotActions(Still(space))
    model = algorithm(policy, env, device="cpu", seed=0, buffer_size=BATCH, **settings)
    model.policy.double()
    with torch.no_grad():
        model.actor.head.linear.weight.mul_(200)  # away from the uniform policy, where estimators agree
    model.set_logger(sb3.common.logger.Logger(None, []))
    batch = fixed_batch(env, torch.Generator().manual_seed(1))
    model.replay_buffer.sample = lambda *_, **__: batch
    before = copy.deepcopy(model.actor)
    noise = torch.get_rng_state()
    model.train(1, BATCH)
    return model, before, batch, noise


def estimator_gradient(actor, critics, estimator, temperature, batch, noise, entropy_coefficient):
    """Return the gradient of -(E[value] + coefficient * entropy) for the actor, as our own agents take it."""
    policy = actor.policy(batch.observations)

    def value(action):
        flat = actor.flat(action)
        kinds = {
            "linear": lambda network: (network(batch.observations) * (0.5 * flat + 0.5)).sum(1),
            "joint": lambda network: network(torch.cat((batch.observations, flat), dim=1)).squeeze(1),
        }
        return torch.stack([kinds[critics.kind](network) for network in critics.networks]).amin(0)

    generator = torch.Generator()
    generator.set_state(noise)
    estimate = ESTIMATORS[estimator](
        policy.logits, value, temperature=temperature, mask=policy.mask, generator=generator
    )
    loss = -(estimate.objective + entropy_coefficient * policy.entropy()).mean()
    return torch.autograd.grad(loss, list(actor.parameters()))


SPACES = [spaces.Discrete(4), spaces.MultiDiscrete([2, 4, 3]), spaces.MultiBinary(3)]


@pytest.mark.parametrize("estimator", pathwise_estimators())
@pytest.mark.parametrize(("space", "kind"), [(SPACES[0], "joint"), (SPACES[1], "joint"), (SPACES[2], "linear")])
def test_sac(estimator, space, kind):
    kwargs = {**SMALL, "estimator": estimator, "temperature": 0.7, "critic": kind}
    if kind == "joint":
        kwargs["activation_fn"] = torch.nn.Tanh  # with curvature, so that where the slope is taken matters
    model, actor, batch, noise = trained_once(sb3.SAC, GumbelSACPolicy, space, policy_kwargs=kwargs, ent_coef=0.3)
    # SAC moves its critics before the actor's loss, which sees those of after the step.
    critics = SimpleNamespace(networks=model.critic.q_networks, kind=kind)
    expected = estimator_gradient(actor, critics, estimator, 0.7, batch, noise, 0.3)
    for parameter, gradient in zip(model.actor.parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-8
        # The coefficient is float32 in SAC.
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("estimator", pathwise_estimators())
def test_td3(estimator):
    """TD3 draws the noise of the target's action, then that sample, and only then the actor's noise."""
    kwargs = {**SMALL, "estimator": estimator, "temperature": 0.7, "critic": "joint", "activation_fn": torch.nn.Tanh}
    states = []
    original = torch.get_rng_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_rng_state", lambda: states.append(original()) or states[-1])
        model, actor, batch, _ = trained_once(
            sb3.TD3, GumbelTD3Policy, SPACES[1], policy_kwargs=kwargs, policy_delay=1, target_noise_clip=0.0
        )
    critics = SimpleNamespace(networks=model.critic.q_networks[:1], kind="joint")
    expected = estimator_gradient(actor, critics, estimator, 0.7, batch, states[-1], 0.0)
    for parameter, gradient in zip(model.actor.parameters(), expected, strict=True):
        assert gradient.abs().max() > 1e-10
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("estimator", pathwise_estimators())
def test_the_action_is_one_that_the_estimator_evaluates(estimator):
    logits = torch.randn(200, 2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    torch.manual_seed(3)
    action = reparameterised(logits, ESTIMATORS[estimator], temperature=0.5, mask=mask)
    torch.testing.assert_close(action.sum(-1), torch.ones(200, 2, dtype=torch.float64))
    assert (action[..., 1, 2] == 0).all()
    is_vertex = ((action == 0) | (action == 1)).all()
    assert bool(is_vertex) is ESTIMATORS[estimator].one_hot
    (gradient,) = torch.autograd.grad((action * torch.randn(3)).sum(), logits)
    assert (gradient[..., 1, 2] == 0).all()
    torch.manual_seed(3)
    with torch.no_grad():
        again = reparameterised(logits, ESTIMATORS[estimator], temperature=0.5, mask=mask)
    torch.testing.assert_close(action, again)


def test_minus_the_entropy_stands_for_the_log_probability():
    """SAC's actor loss is climbed as the exact expectation would be, and the temperature of entropy is fitted to H."""
    model, actor, batch, _ = trained_once(sb3.SAC, GumbelSACPolicy, SPACES[1], policy_kwargs=SMALL, target_entropy=1.0)
    _, log_prob = actor.action_log_prob(batch.observations)
    policy = actor.policy(batch.observations)
    joint = [policy.probs[:, g, : (2, 4, 3)[g]] for g in range(3)]
    everything = torch.einsum("ba,bc,bd->bacd", *joint).flatten(1)
    torch.testing.assert_close(log_prob, (everything * everything.log()).sum(1))
    # One Adam step of log alpha, from 0: against the sign of (H - target).
    above = (-log_prob - 1.0).mean()
    assert (model.log_ent_coef.detach() * above.detach()).item() < 0


def test_noise_is_not_drawn_twice():
    """Backward replays the noise of forward from a generator of its own; the global one stays where it was."""
    logits = torch.zeros(4, 1, 3, requires_grad=True)
    torch.manual_seed(0)
    action = reparameterised(logits, ESTIMATORS["gumbel"])
    after = torch.get_rng_state()
    action.sum().backward()
    assert torch.equal(after, torch.get_rng_state())
    torch.manual_seed(0)
    gumbel_noise(logits)
    assert torch.equal(after, torch.get_rng_state())
