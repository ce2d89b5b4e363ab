"""reinforce: unbiased by enumeration, what becomes of cut episodes, and the optimum of Sutton & Barto's corridor."""

import math

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import Trainer
from gumbelrl.agents.reinforce import Reinforce, ReinforceConfig, ends_within
from gumbelrl.agents.rollout import Transition
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout


@pytest.mark.parametrize("partial", ["bootstrap", "drop"])
@pytest.mark.parametrize("baseline", [True, False])
def test_the_expected_gradient_is_exact(partial, baseline):
    """Over all actions of one-step episodes, weighted by their probabilities: ∇ E[r], whatever the baseline says."""
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    config = ReinforceConfig(
        num_envs=1,
        rollout_steps=1,
        reward_scale=1.0,
        partial=partial,
        baseline=baseline,
        value_coefficient=0.0,
        normalise_advantages=False,
    )
    agent = Reinforce(config, layout=layout, num_features=4, seeds=(0,))
    observation, reward = torch.randn(1, 1, 1, 4), torch.randn(6)
    with torch.no_grad():
        agent.flat.mul_(3.0)  # away from the start, where all actions are as probable
    policy = agent.policy(observation[0], None)
    yes, no = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
    expected = torch.zeros(1)
    mean = torch.zeros_like(agent.flat)
    for action, r_t in zip(layout.enumerate_actions(), reward, strict=True):
        probability = policy.log_prob(action).exp().squeeze()
        expected = expected + probability * r_t
        rollout = Transition(
            observation=observation,
            logits=policy.logits.detach().unsqueeze(0),
            action=action.view(1, 1, 1, 2, 3),
            reward=r_t.view(1, 1, 1),
            terminated=yes,
            truncated=no,
            final_observation=torch.randn(1, 1, 1, 4),
        )
        mean += probability.detach() * agent.parameters.gradient(-agent.loss(agent.returns(rollout))[0].sum())
    torch.testing.assert_close(mean, agent.parameters.gradient(expected.sum()), rtol=1e-4, atol=1e-5)


def make_rollout(terminated, truncated, reward):
    """Two environments of one member, rows are steps."""
    columns = [torch.tensor(x).unsqueeze(1) for x in (terminated, truncated, reward)]
    shape = columns[0].shape
    return Transition(
        observation=torch.randn(*shape, 4),
        logits=torch.zeros(*shape, 1, 2),
        action=torch.nn.functional.one_hot(torch.randint(2, (*shape, 1)), 2).float(),
        reward=columns[2],
        terminated=columns[0],
        truncated=columns[1],
        final_observation=torch.randn(*shape, 4),
    )


@pytest.mark.parametrize("partial", ["bootstrap", "drop"])
def test_what_becomes_of_cut_episodes(partial):
    """Environment 0 terminates at t = 1, 1 is truncated at t = 0; the end of the rollout then cuts both."""
    rollout = make_rollout(
        terminated=[[False, False], [True, False], [False, False]],
        truncated=[[False, True], [False, False], [False, False]],
        reward=[[1.0, 2.0], [3.0, 5.0], [7.0, 11.0]],
    )
    config = ReinforceConfig(num_envs=2, rollout_steps=3, discount=0.5, reward_scale=2.0, partial=partial)
    agent = Reinforce(config, layout=ActionLayout.from_space(spaces.Discrete(2)), num_features=4, seeds=(0,))
    data = agent.returns(rollout)
    v = agent.value(rollout.final_observation.view(1, 6, 4)).detach().view(3, 2)  # [time, env]
    target, weight = (data[name].view(3, 2) for name in ("target", "weight"))
    if partial == "bootstrap":
        last = [14 + 0.5 * v[2, 0], 22 + 0.5 * v[2, 1]]
        expected = [[2 + 0.5 * 6, 4 + 0.5 * v[0, 1]], [6, 10 + 0.5 * last[1]], last]
        assert (weight == 1).all()
    else:
        expected = [[2 + 0.5 * 6, 4], [6, math.nan], [math.nan, math.nan]]
        assert weight.tolist() == [[1, 1], [1, 0], [0, 0]]
    expected = torch.tensor(expected)
    torch.testing.assert_close(target[weight > 0], expected[weight > 0])
    torch.testing.assert_close(data["advantage"], data["target"] - data["value"])


def test_steps_left_out_have_no_part_in_the_step():
    """What lies behind the last end may be anything."""
    flat = []
    for tail in (0.0, 1e6):
        torch.manual_seed(0)
        rollout = make_rollout(
            terminated=[[False, False], [True, True], [False, False]],
            truncated=[[False, False]] * 3,
            reward=[[1.0, 2.0], [3.0, 5.0], [tail, tail]],
        )
        config = ReinforceConfig(num_envs=2, rollout_steps=3, partial="drop")
        agent = Reinforce(config, layout=ActionLayout.from_space(spaces.Discrete(2)), num_features=4, seeds=(0,))
        before = agent.flat.detach().clone()
        metrics = agent.update(rollout)
        assert metrics["train/complete"].item() == pytest.approx(2 / 3)
        assert not torch.equal(agent.flat, before)
        flat.append(agent.flat.detach())
    assert torch.equal(*flat)


def test_no_whole_episode_no_gradient():
    rollout = make_rollout([[False, False]] * 3, [[False, False]] * 3, [[1.0, 2.0]] * 3)
    config = ReinforceConfig(num_envs=2, rollout_steps=3, partial="drop", entropy_coefficient=0.1)
    agent = Reinforce(config, layout=ActionLayout.from_space(spaces.Discrete(2)), num_features=4, seeds=(0,))
    before = agent.flat.detach().clone()
    assert agent.update(rollout)["gradient/norm"].item() == 0.0
    assert torch.equal(agent.flat, before)


def test_ends_within():
    finished = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]).bool()
    assert ends_within(finished).int().tolist() == [[1, 0, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("partial", ["bootstrap", "drop"])
def test_the_best_mixture_is_found_where_all_states_look_alike(partial):
    """Sutton & Barto, example 13.1: right with probability 2 − √2 = .586."""
    seeds = (0, 1)
    config = ReinforceConfig(discount=1.0, hidden=(8,), partial=partial)
    env = make("gumbelrl/ShortCorridor-v0", num_envs=len(seeds) * config.num_envs)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = Reinforce(config, layout=layout, num_features=1, seeds=seeds)
    trainer = Trainer(agent, env, seeds=seeds, total_steps=40_000, temperature=lambda progress, step: 1.0)
    while not trainer.finished:
        trainer.iterate()
    right = agent.policy(torch.ones(2, 1, 1), None).probs[:, 0, 0, 1]
    assert (right - (2 - math.sqrt(2))).abs().max() < 0.08
