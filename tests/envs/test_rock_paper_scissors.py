"""Rock, paper, scissors: payoffs, fictitious play, and what policies without memory get, exactly and by simulation."""

import math
import warnings

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from gumbelrl.envs import RockPaperScissors, check_batched_env
from gumbelrl.envs.rock_paper_scissors import PAYOFFS

NAME = "gumbelrl/RockPaperScissors-v0"
MATRIX = torch.tensor(PAYOFFS, dtype=torch.float64)
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)


def expected_reward(probs, rounds_before):
    """Return the expected reward [policy] of a round, over the multinomial of the counts before it."""
    n = rounds_before
    counts = torch.tensor([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)], dtype=torch.float64)
    wins = -(counts @ MATRIX)
    best = (wins == wins.max(1, keepdim=True).values).double()
    logs = torch.xlogy(counts, probs.unsqueeze(1)).sum(-1) - torch.lgamma(counts + 1).sum(-1)
    reply = (logs + math.lgamma(n + 1)).exp() @ (best / best.sum(1, keepdim=True))
    return ((probs @ MATRIX) * reply).sum(1)


def grid(steps):
    points = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return torch.tensor(points, dtype=torch.float64) / steps


def play(env, policy, seed=0):
    """Return the rewards [round, env] of one episode of independent draws from a policy."""
    env.reset(seed)
    generator = torch.Generator().manual_seed(seed)
    rewards = []
    for _ in range(env.num_rounds):
        action = torch.multinomial(policy.expand(env.num_envs, 3), 1, generator=generator)[:, 0]
        step = env.step(action)
        rewards.append(step.reward)
    assert step.terminated.all()
    return torch.stack(rewards).double()


@pytest.mark.parametrize(
    "options", [{"num_rounds": 12}, {"opponent": "mixing", "num_rounds": 7}, {"opponent": "mixing"}], ids=str
)
def test_keeps_the_contract(options):
    check_batched_env(RockPaperScissors(3, **options), steps=40, random_steps=2000)


def test_payoffs_against_a_pure_opponent():
    for theirs in range(3):
        probs = [float(theirs == a) for a in range(3)]
        env = RockPaperScissors(3, opponent="mixing", opponent_probs=probs)
        env.reset(0)
        assert env.step(torch.arange(3)).reward.tolist() == MATRIX[:, theirs].tolist()
        assert env.optimal_return == 100
        assert env.optimal_probs()[0, 0].argmax() == (theirs + 1) % 3
    assert torch.equal(MATRIX, -MATRIX.T)


def test_the_opponent_best_responds_to_the_counts_and_breaks_ties_evenly():
    """Ties: frequencies over 20,000 rounds within 5 standard errors."""
    env = RockPaperScissors(20_000)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        wins = -(env.state[:, :3].double() @ MATRIX)
        env.step(torch.randint(3, (20_000,), generator=generator))
        played = wins.gather(1, env.state[:, 4:5].long())[:, 0]
        assert torch.equal(played, wins.max(1).values)
    for counts, likely in (
        ((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)),
        ((3, 1, 2), (0.5, 0.5, 0)),
        ((2, 0, 0), (0.0, 1.0, 0.0)),
    ):
        env.reset(1)
        env.state[:, :3] = torch.tensor(counts, dtype=torch.int32)
        env.step(torch.zeros(20_000, dtype=torch.int64))
        shares = torch.bincount(env.state[:, 4].long(), minlength=3) / 20_000
        torch.testing.assert_close(shares, torch.tensor(likely), rtol=0, atol=5 * 0.5 / 20_000**0.5)


def test_without_memory_only_uniform_attains_zero():
    """Every round from the second on, on a grid of policies, by enumeration; and the closed form of the second."""
    policies = grid(12)
    distance = (policies - UNIFORM).square().sum(1)
    for before in (1, 2, 3, 4, 5, 6, 7, 8, 16, 33, 64, 99):
        rewards = expected_reward(policies, before)
        assert (rewards <= -1.3 * distance + 1e-12).all()
    second = -0.5 * (policies - policies.roll(1, 1)).square().sum(1)
    torch.testing.assert_close(expected_reward(policies, 1), second)
    assert expected_reward(UNIFORM.unsqueeze(0), 50).abs() < 1e-12


@pytest.mark.parametrize("policy", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2), (0.1, 0.45, 0.45), (0.0, 0.2, 0.8)])
def test_simulated_episodes_agree_with_the_enumeration(policy):
    """Within 5 standard errors of 1,000 returns; late rounds approach what a best response wins."""
    probs = torch.tensor(policy, dtype=torch.float64)
    rewards = play(RockPaperScissors(1000, num_rounds=60), probs)
    returns = rewards.sum(0)
    exact = sum(float(expected_reward(probs.unsqueeze(0), n)) for n in range(1, 60))
    assert abs(float(returns.mean()) - exact) < 5 * float(returns.std()) / 1000**0.5
    late = float(expected_reward(probs.unsqueeze(0), 200))
    assert late == pytest.approx(-float(RockPaperScissors.exploitability(probs)), abs=0.02)


def test_a_pure_policy_loses_every_round_but_the_first():
    rewards = play(RockPaperScissors(50), torch.tensor([0.0, 0.0, 1.0]))
    assert (rewards[1:] == -1).all()
    assert set(rewards[0].tolist()) == {-1.0, 0.0, 1.0}


def test_an_agent_that_remembers_its_actions_wins_nearly_always():
    env = RockPaperScissors(256)
    env.reset(0)
    total = torch.zeros(256)
    for _ in range(100):
        predicted = (env.state[:, :3].roll(1, 1) - env.state[:, :3].roll(-1, 1)).argmax(1)
        total += env.step((predicted + 1) % 3).reward
    assert total.mean() > 60


def test_exploitability():
    exploitability = RockPaperScissors.exploitability
    policies = grid(12)
    expected = -(policies @ MATRIX).min(1).values
    torch.testing.assert_close(exploitability(policies), expected)
    assert (exploitability(policies)[(policies - UNIFORM).abs().sum(1) > 1e-9] > 0.08).all()
    assert exploitability(UNIFORM) == 0
    assert exploitability(torch.eye(3)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("probs", [None, (0.2, 0.2, 0.6), (0.4, 0.4, 0.2), (1 / 3, 1 / 3, 1 / 3)])
def test_the_scripted_policy_attains_the_optimum_against_a_mixing_opponent(probs):
    """Within 5 standard errors of 2,000 returns; the optimum again from the payoffs."""
    env = RockPaperScissors(2000, opponent="mixing", opponent_probs=probs, num_rounds=50)
    returns = play(env, env.optimal_probs()[0, 0]).sum(0)
    assert abs(float(returns.mean()) - env.optimal_return) < 5 * float(returns.std()) / 2000**0.5
    values = MATRIX @ torch.tensor(probs or (0.5, 0.25, 0.25), dtype=torch.float64)
    assert env.optimal_return == pytest.approx(50 * float(values.max()), abs=1e-9)


def test_the_scripted_policy_attains_the_optimum_against_the_best_response():
    """Within 5 standard errors of 2,000 returns."""
    env = RockPaperScissors(2000)
    returns = play(env, env.optimal_probs()[0, 0], seed=1).sum(0)
    assert env.optimal_return == 0
    assert abs(float(returns.mean())) < 5 * float(returns.std()) / 2000**0.5


def test_writing_into_what_reset_gave_changes_no_later_episode():
    env = RockPaperScissors(2)
    expected = env.reset(0).clone()
    env.observe(env.state).fill_(9)
    env.reset(0).fill_(9)
    env.state.fill_(9)
    assert torch.equal(env.reset(0), expected)
    assert (env.state < 9).all()


def test_other_libraries_accept_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_gymnasium(gymnasium.make(NAME).unwrapped, skip_render_check=False)
        check_sb3(gymnasium.make(NAME).unwrapped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opponent": "clairvoyant"}, "is one of mixing"),
        ({"opponent_probs": (0.2, 0.2, 0.6)}, "belong to the opponent 'mixing'"),
        ({"opponent": "mixing", "opponent_probs": (0.5, 0.5)}, "three numbers"),
        ({"opponent": "mixing", "opponent_probs": (0.5, 0.6, -0.1)}, "three numbers"),
        ({"opponent": "mixing", "opponent_probs": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"num_rounds": 0}, "num_rounds must be at least 1"),
    ],
)
def test_refuses_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        RockPaperScissors(1, **options)
