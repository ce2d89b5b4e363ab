"""Bandits: values on and off the vertices, optima against enumeration, the curvature bandit's fixed point."""

import itertools
import warnings

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from gumbelrl.envs import Bandit, check_batched_env, make
from gumbelrl.envs.bandit_values import RESOLUTION, best_chain
from gumbelrl.policies import ESTIMATORS

SMALL = [
    {"kind": "linear", "num_choices": 7},
    {"kind": "linear", "num_choices": 50, "num_features": 4},
    {"kind": "linear", "gap": 0.25},
    {"kind": "curvature", "curvature": 2.0, "num_groups": 3},
    {"kind": "parity", "num_groups": 5},
    {"kind": "parity", "num_groups": 4, "even_reward": -1.0},
    {"kind": "factored", "num_groups": 4, "num_choices": 3, "seed": 5},
    {"kind": "pairwise", "num_groups": 5, "num_choices": 3},
    {"kind": "pairwise", "num_groups": 2, "num_choices": 6, "interaction": 3.0},
]
NAMES = [
    "gumbelrl/Bandit-v0",
    "gumbelrl/CurvatureBandit-v0",
    "gumbelrl/ParityBandit-v0",
    "gumbelrl/FactoredBandit-v0",
    "gumbelrl/PairwiseBandit-v0",
    "gumbelrl/ManyArms-v0",
]


def all_actions(env):
    function = env.function
    return torch.tensor(list(itertools.product(range(function.num_choices), repeat=function.num_groups)))


def one_hot(env, action):
    return torch.nn.functional.one_hot(action, env.function.num_choices).float()


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(Bandit(3, **options), steps=30, random_steps=1000)


@pytest.mark.parametrize(
    "options", [{"kind": "factored", "num_groups": 256}, {"num_choices": 10_000, "noise_std": 1.0}]
)
def test_keeps_the_contract_when_large(options):
    check_batched_env(Bandit(3, **options), steps=10, random_steps=300)


@pytest.mark.parametrize("options", SMALL, ids=str)
def test_every_action_and_the_optimum_against_enumeration(options):
    """The reward of each vertex is the differentiable value there, and the best of them is what the optimum says."""
    env = Bandit(1, **options)
    actions = all_actions(env)
    values = env.value(one_hot(env, actions))
    torch.testing.assert_close(env.function.at(actions), values, rtol=0, atol=1e-5)
    env = Bandit(len(actions), **options)
    env.reset(0)
    step = env.step(actions[:, 0] if isinstance(env.single_action_space, gymnasium.spaces.Discrete) else actions)
    assert torch.equal(step.reward, env.function.at(actions))
    assert step.terminated.all()
    assert env.optimal_return == step.reward.max()
    best = env.optimal_probs()[0]
    assert env.value(best).item() == pytest.approx(env.optimal_return, abs=1e-5)
    assert torch.equal(env.function.best, best.argmax(-1))


def test_viterbi_on_many_chains():
    for seed in range(20):
        links = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(seed))
        path, value = best_chain(links)
        sums = {
            each: sum(float(links[g, a, b]) for g, (a, b) in enumerate(itertools.pairwise(each)))
            for each in itertools.product(range(3), repeat=5)
        }
        assert tuple(path.tolist()) == max(sums, key=sums.__getitem__)
        assert value == pytest.approx(max(sums.values()))


@pytest.mark.parametrize("kind", ["factored", "pairwise"])
def test_sums_over_256_groups_are_exact(kind):
    env = Bandit(64, kind=kind, num_groups=256)
    env.reset(0)
    action = torch.randint(5, (64, 256), generator=torch.Generator().manual_seed(0))
    points = one_hot(env, action).double()
    exact = (points * env.function.rewards.double()).sum((1, 2))
    if kind == "pairwise":
        exact += torch.einsum("egi,gij,egj->e", points[:, :-1], env.function.interactions.double(), points[:, 1:])
    assert torch.equal(env.step(action).reward.double(), exact)
    best = env.optimal_probs().argmax(-1)
    assert torch.equal(env.step(best).reward, torch.full((64,), env.optimal_return))


def test_the_gap_is_what_was_asked_for():
    env = Bandit(1, kind="factored", gap=0.5)
    first, second = env.function.rewards.topk(2, -1).values.unbind(-1)
    assert torch.equal(first - second, torch.full((16,), 0.5))


def test_features_explain_the_rewards_and_are_the_same_everywhere():
    env, other = Bandit(1, num_choices=1000, num_features=8), Bandit(1, num_choices=1000, num_features=8, seed=1)
    weights = torch.linalg.lstsq(env.features, env.function.rewards[0]).solution
    assert (env.features @ weights - env.function.rewards[0]).abs().max() < RESOLUTION
    again = Bandit(5, num_choices=1000, num_features=8)
    assert torch.equal(again.function.rewards, env.function.rewards)
    assert not torch.equal(other.function.rewards, env.function.rewards)
    assert Bandit(1).features is None


def test_reward_noise_has_the_mean_and_spread_asked_for():
    """Within 5 standard errors of both (a failure rate below 1e-6 for another seed)."""
    env = Bandit(40_000, noise_std=0.7)
    env.reset(0)
    reward = env.step(env.optimal_probs()[:, 0].argmax(-1)).reward.double()
    assert abs(float(reward.mean()) - env.optimal_return) < 5 * 0.7 / 200
    assert abs(float(reward.std()) - 0.7) < 5 * 0.7 / 200 / 2**0.5


def test_parity_is_the_expectation_under_independent_bits_and_blind_to_some_of_them():
    env = Bandit(1, kind="parity", even_reward=-1.0)
    ones = torch.tensor([0.1, 0.7, 0.4, 0.95])
    probs = torch.stack((1 - ones, ones), -1)
    points = one_hot(env, all_actions(env))
    weights = (probs * points).sum(-1).prod(-1)
    assert env.value(probs).item() == pytest.approx(float((weights * env.value(points)).sum()), abs=1e-6)
    probs[2] = 0.5  # one bit unknown
    assert env.value(probs).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("gap", "curvature", "stall"), [(1.0, 1.0, 0.75), (0.5, 2.0, 0.5625)])
def test_softmax_and_straight_through_stall_on_the_curvature_bandit(gap, curvature, stall):
    """At p* = ½ + Δ/4c both estimates vanish and pull there; the true gradient goes on to 1.

    Straight-through's mean over 4,096 samples is within 5 standard errors of 0.
    """
    env = Bandit(1, kind="curvature", gap=gap, curvature=curvature)
    better = int(env.function.best[0])

    def gradients(name, p, rows=1):
        probs = torch.full((rows, 1, 2), 1 - p)
        probs[:, :, better] = p
        logits = probs.log().requires_grad_()
        generator = torch.Generator().manual_seed(0)
        ESTIMATORS[name](logits, env.value, generator=generator).objective.sum().backward()
        return logits.grad[:, 0, better]

    assert abs(gradients("softmax", stall).item()) < 1e-6
    assert gradients("softmax", stall - 0.02) > 1e-3
    assert gradients("softmax", stall + 0.02) < -1e-3
    sampled = gradients("straight-through", stall, 4096)
    assert abs(float(sampled.mean())) < 5 * float(sampled.std()) / 64
    for p in (stall, 0.9, 0.99):
        assert gradients("exact", p).item() == pytest.approx(gap * p * (1 - p), rel=1e-3)


def test_writing_into_what_reset_gave_changes_no_later_episode():
    env = Bandit(2)
    expected = env.reset(0).clone()
    env.observe(env.state).fill_(9)
    env.reset(0).fill_(9)
    env.state.fill_(9)
    assert torch.equal(env.reset(0), expected)
    assert (env.state < 9).all()


@pytest.mark.parametrize("name", NAMES)
def test_other_libraries_accept_it(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_gymnasium(gymnasium.make(name).unwrapped, skip_render_check=False)
        check_sb3(gymnasium.make(name).unwrapped)


def test_the_scripted_policy_attains_the_optimum_by_name():
    for name in NAMES:
        env = make(name, num_envs=4)
        env.reset(0)
        action = env.optimal_probs().argmax(-1)
        single = isinstance(env.single_action_space, gymnasium.spaces.Discrete)
        reward = env.step(action[:, 0] if single else action).reward
        assert torch.equal(reward, torch.full((4,), env.optimal_return))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "quadratic"}, "is one of linear"),
        ({"num_groups": 257}, "1 to 256 groups"),
        ({"num_choices": 1}, "2 or more choices"),
        ({"kind": "parity", "num_choices": 3}, "parity is of bits"),
        ({"kind": "pairwise", "num_groups": 1}, "at least 2 groups"),
        ({"curvature": 1.0}, "belongs to the kind 'curvature'"),
        ({"even_reward": -1.0}, "belongs to the kind 'parity'"),
        ({"kind": "parity", "even_reward": 1.0}, "even_reward is below 1"),
        ({"kind": "pairwise", "gap": 1.0}, "gap is above 0"),
        ({"gap": 0.0}, "gap is above 0"),
        ({"gap": 5000.0}, "use a smaller gap"),
        ({"kind": "factored", "num_features": 3}, "num_features is at least 1"),
        ({"noise_std": -1.0}, "noise_std must not be negative"),
        ({"num_envs": 0}, "num_envs must be at least 1"),
    ],
)
def test_refuses_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        Bandit(**{"num_envs": 1, **options})
