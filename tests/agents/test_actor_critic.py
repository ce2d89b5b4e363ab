"""The actor-critic agent: members apart, gradients where they belong, and it learns."""

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import CRITICS, ActorCritic, ActorCriticConfig, Trainer
from gumbelrl.agents.returns import lambda_returns
from gumbelrl.envs import CartPole
from gumbelrl.policies import ESTIMATORS, ActionLayout

SMALL = ActorCriticConfig(num_envs=4, rollout_steps=8, epochs=1, minibatches=2, hidden=(16,))


def make_trainer(seeds, *, config=SMALL, policy="gumbel", critic="linear", total_steps=10_000):
    env = CartPole(len(seeds) * config.num_envs)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = ActorCritic(config, layout=layout, num_features=4, seeds=seeds, estimator=policy, critic=critic)
    return Trainer(agent, env, seeds=seeds, total_steps=total_steps, temperature=lambda progress, step: 1.0)


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("policy", ESTIMATORS)
def test_a_member_does_what_it_would_do_alone(policy, critic):
    """Equal up to the order of additions in a batched product."""
    together = make_trainer((3, 4, 5), policy=policy, critic=critic)
    alone = make_trainer((4,), policy=policy, critic=critic)
    for _ in range(3):
        ours, theirs = together.iterate(), alone.iterate()
        assert torch.equal(together.observation[1], alone.observation[0])
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][1:2], value, rtol=1e-4, atol=1e-5, equal_nan=True, msg=name)
    torch.testing.assert_close(together.agent.flat[1:2], alone.agent.flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_no_gradient_crosses_members(critic):
    """The loss of member 0 alone leaves every other member's gradient at exactly zero."""
    trainer = make_trainer((0, 1, 2), critic=critic)
    agent, batch = trainer.agent, torch.randn(3, 6, 4)
    value = agent.critic(batch)
    estimate = agent.estimator(agent.logits(batch), value, generator=agent.streams)
    loss = (estimate.objective + value(estimate.action))[0].sum()
    gradient = agent.parameters.gradient(loss)
    assert gradient[0].abs().sum() > 0
    assert (gradient[1:] == 0).all()


def test_one_members_nan_stays_its_own():
    trainer = make_trainer((0, 1))
    with torch.no_grad():
        trainer.agent.flat[0] = float("nan")
    trainer.iterate()
    assert trainer.agent.flat[1].isfinite().all()


def test_lambda_returns_by_hand():
    """γ = ½, λ = ½; column 0 goes on, 1 terminates at t = 1, 2 is truncated there."""
    r = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [4.0, 4.0, 4.0]])
    v = torch.tensor([[8.0, 8.0, 8.0], [6.0, 6.0, 6.0], [2.0, 2.0, 2.0]])
    terminated = torch.tensor([[False] * 3, [False, True, False], [False] * 3])
    truncated = torch.tensor([[False] * 3, [False, False, True], [False] * 3])
    got = lambda_returns(r, v, terminated, truncated, discount=0.5, trace=0.5)
    last = 4 + 0.5 * 2  # G_2 = 5
    middle = [2 + 0.5 * (0.5 * 6 + 0.5 * last), 2.0, 2 + 0.5 * 6]
    first = [1 + 0.5 * (0.5 * 8 + 0.5 * g) for g in middle]
    torch.testing.assert_close(got, torch.tensor([first, middle, [last] * 3]))


def test_a_mask_is_never_broken_and_gets_no_gradient():
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    agent = ActorCritic(SMALL, layout=layout, num_features=5, seeds=(0,))
    mask = torch.tensor([[True, False, True], [True, True, True]]).expand(1, 400, 2, 3)
    policy = agent.policy(torch.randn(1, 400, 5), mask)
    action = policy.sample(generator=agent.streams)
    assert (action[..., 0, 1] == 0).all()
    assert (action[..., 1, 2] == 0).all()  # the ragged end
    assert (policy.mode[..., 0, 1] == 0).all()
    logits = torch.randn(1, 400, 2, 3, requires_grad=True)
    value = agent.critic(torch.randn(1, 400, 5))
    agent.estimator(logits, value, mask=layout.merge_mask(mask)).objective.sum().backward()
    assert (logits.grad[..., 0, 1] == 0).all()
    assert (logits.grad[..., 1, 2] == 0).all()


def test_state_resumes_bit_for_bit():
    one, other = make_trainer((0, 1)), make_trainer((0, 1))
    for _ in range(3):
        one.iterate()
    state = one.state_dict()
    copied = {k: _clone(v) for k, v in state.items()}
    one.iterate()
    other.load_state_dict(copied)
    other.iterate()
    assert torch.equal(one.agent.flat, other.agent.flat)
    assert torch.equal(one.statistics.window, other.statistics.window)


def _clone(value):
    if isinstance(value, dict):
        return {name: _clone(each) for name, each in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"discount": 1.5}, "discount must be between 0 and 1"),
        ({"minibatches": 3}, "divisible"),
        ({"hidden": ()}, "at least one layer"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticConfig(**change)


def test_gumbel_solves_cartpole():
    """One seed of the ten that docs/results.md shows to succeed; deterministic on one machine."""
    trainer = make_trainer((0,), config=ActorCriticConfig(), total_steps=131_072)
    while not trainer.finished:
        metrics = trainer.iterate()
    assert metrics["train/return"].item() >= 450
