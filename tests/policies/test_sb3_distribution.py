"""The head as stable-baselines3's `Distribution`, against stable-baselines3's own on the same logits."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

sb3 = pytest.importorskip("stable_baselines3")

from stable_baselines3.common.distributions import kl_divergence, make_proba_distribution  # noqa: E402

from gumbelrl.policies.sb3 import GumbelActorCriticPolicy, make_gumbel_distribution  # noqa: E402
from gumbelrl.policies.sb3.temperature import ScheduledTemperature  # noqa: E402

SPACES = {
    "discrete": (spaces.Discrete(5), 5),
    "multi_discrete": (spaces.MultiDiscrete([4, 4]), 8),
    "ragged": (spaces.MultiDiscrete([3, 5, 2]), 10),
    "multi_binary": (spaces.MultiBinary(4), 4),
}
each_space = pytest.mark.parametrize(("space", "size"), SPACES.values(), ids=SPACES)


def pair(space, size, temperature=1.0, rows=64, seed=0):
    """Return ours with a temperature, stable-baselines3's own with the logits divided by it, and both logits."""
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, size, generator=generator, dtype=torch.float64)).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    ours = make_gumbel_distribution(space, ScheduledTemperature(temperature)).proba_distribution(logits)
    theirs = make_proba_distribution(space).proba_distribution(twin / temperature)
    return ours, theirs, logits, twin


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@each_space
def test_log_prob_entropy_and_mode_are_stable_baselines3s_and_so_are_their_gradients(space, size, temperature):
    ours, theirs, logits, twin = pair(space, size, temperature)
    action = theirs.sample()
    assert torch.equal(ours.mode(), theirs.mode())
    assert ours.mode().dtype == theirs.mode().dtype
    assert ours.sample().shape == action.shape
    assert ours.sample().dtype == action.dtype
    for mine, other in ((ours.log_prob(action), theirs.log_prob(action)), (ours.entropy(), theirs.entropy())):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
        weight = torch.linspace(-1, 2, len(mine), dtype=torch.float64)
        (gradient,) = torch.autograd.grad((mine * weight).sum(), logits, retain_graph=True)
        (expected,) = torch.autograd.grad((other * weight).sum(), twin, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@each_space
def test_the_same_as_torch_distributions_has_it(space, size):
    ours, theirs, *_ = pair(space, size, 2.0)
    mine, other = ours.distribution, theirs.distribution
    mine, other = (mine, other) if isinstance(mine, list) else ([mine], [other])
    assert len(mine) == len(other)
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one.probs, two.probs)
    shifted = make_gumbel_distribution(space, ScheduledTemperature(1.0)).proba_distribution(2 * ours._logits.detach())
    assert kl_divergence(ours, shifted).min() > 0


@each_space
def test_samples_have_the_probabilities_that_log_prob_says(space, size):
    """Seeded; every joint action within 5.5 standard deviations: fresh seeds would fail once in 2e5 (normal tails)."""
    torch.manual_seed(1)
    count = 40_000
    ours, *_ = pair(space, size, 1.5, rows=1, seed=3)
    ours.proba_distribution(ours._logits.detach().expand(count, -1) * 1.5)
    joint, seen = ours.sample().reshape(count, -1).unique(dim=0, return_counts=True)
    ours.proba_distribution(ours._logits[: len(joint)] * 1.5)
    probs = ours.log_prob(joint.squeeze(1) if isinstance(space, spaces.Discrete) else joint).exp()
    deviation = (seen / count - probs).abs() / (probs * (1 - probs) / count).sqrt()
    assert deviation.max() < 5.5
    assert probs.sum() > 0.999


def test_an_action_space_that_begins_elsewhere():
    ours, *_ = pair(spaces.Discrete(3, start=7), 3)
    assert set(ours.sample().tolist()) <= {7, 8, 9}
    mode = ours.mode()
    assert ours.log_prob(mode).exp().min() >= 1 / 3


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 1, (2,)), "is continuous: gumbelrl needs Discrete"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), "flatten it to a MultiDiscrete"),
        (spaces.Text(3), "is not discrete"),
        (spaces.MultiBinary((2, 3)), "takes actions of one axis"),
        (spaces.MultiDiscrete(np.full((2, 2), 3)), "takes actions of one axis"),
    ],
)
def test_spaces_that_cannot_be(space, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make_gumbel_distribution(space, ScheduledTemperature(1.0))


def test_weights_go_over_from_a_stock_agent_and_back():
    stock = sb3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=0, device="cpu")
    ours = sb3.PPO(GumbelActorCriticPolicy, "CartPole-v1", n_steps=8, batch_size=8, seed=1, device="cpu")
    ours.set_parameters(stock.get_parameters())
    observation = torch.randn(16, 4)
    action = torch.arange(16) % 2
    for mine, other in zip(
        ours.policy.evaluate_actions(observation, action),
        stock.policy.evaluate_actions(observation, action),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)
    back = {name: value for name, value in ours.policy.state_dict().items() if "temperature" not in name}
    stock.policy.load_state_dict(back)


@pytest.mark.parametrize("agent", ["PPO", "A2C"])
def test_what_is_learned_from_is_the_policy_that_acted(agent):
    """The log-probabilities that a rollout stored are those of the policy before its first gradient step."""
    settings = {"policy_kwargs": {"temperature": 2.5}, "n_steps": 64, "device": "cpu", "seed": 0}
    model = getattr(sb3, agent)(GumbelActorCriticPolicy, "CartPole-v1", **settings)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(300)  # far from uniform, where the temperature does not matter
    model.learning_rate = model.lr_schedule = lambda progress: 0.0
    model.learn(64)
    stored = next(model.rollout_buffer.get(32))
    _, log_prob, _ = model.policy.evaluate_actions(stored.observations, stored.actions.long().flatten())
    torch.testing.assert_close(log_prob, stored.old_log_prob, rtol=1e-5, atol=1e-5)
    model.policy.set_temperature(1.0)
    _, changed, _ = model.policy.evaluate_actions(stored.observations, stored.actions.long().flatten())
    assert (changed - stored.old_log_prob).abs().max() > 0.01


class MaskedCounter(gymnasium.Env):
    """Dict observations with a mask: only the action that the counter names, and the last one, are allowed."""

    observation_space = spaces.Dict(
        {"count": spaces.Box(0, 4, (1,), np.float32), "action_mask": spaces.Box(0, 1, (4,), np.int8)}
    )
    action_space = spaces.Discrete(4)
    is_broken = False

    def _observe(self):
        mask = np.zeros(4, dtype=np.int8)
        if not (self.is_broken and self.count == 2):
            mask[[self.count % 4, 3]] = 1
        return {"count": np.array([self.count % 4], dtype=np.float32), "action_mask": mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._observe(), {}

    def step(self, action):
        assert self._observe()["action_mask"][action], "a masked action was taken"
        self.count += 1
        return self._observe(), 1.0, self.count >= 6, False, {}


def masked_model(env):
    from gumbelrl.policies.sb3 import GumbelActorCriticMultiInputPolicy

    return sb3.PPO(GumbelActorCriticMultiInputPolicy, env, n_steps=32, batch_size=32, n_epochs=2, device="cpu", seed=0)


def test_stock_ppo_obeys_a_mask_in_dict_observations():
    env = MaskedCounter()
    model = masked_model(env).learn(64)
    observation, _ = env.reset()
    for _ in range(5):
        observation, *_ = env.step(model.predict(observation)[0])
    stored = next(model.rollout_buffer.get(32))
    *_, entropy = model.policy.evaluate_actions(stored.observations, stored.actions.long().flatten())
    assert entropy.max() <= np.log(2) + 1e-6
    assert torch.isfinite(model.policy.action_net.weight).all()


def test_a_mask_that_allows_nothing_is_named():
    env = MaskedCounter()
    env.is_broken = True
    with pytest.raises(ValueError, match="environment row 0 has no valid choice in group 0: at least one action must"):
        masked_model(env).learn(64)
