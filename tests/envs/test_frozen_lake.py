"""The lakes against gymnasium's: the table, play, and the optimum by a recursion written again."""

import gymnasium
import numpy as np
import pytest
import torch

from gumbelrl.envs import FrozenLake, FrozenLake8x8, TransitionTable, make, policy_values, value_iteration

CUSTOM = ["SFFH", "FSFF", "HFFG"]
OPTIONS = [
    {},
    {"is_slippery": False},
    {"success_rate": 0.75},
    {"success_rate": 1.0},
    {"success_rate": 0.0},
    {"reward_schedule": (5, -1, -0.1)},
    {"map_name": "8x8"},
    {"desc": CUSTOM},
    {"desc": CUSTOM, "is_slippery": False, "reward_schedule": (1, -2, 3)},
]


class Dice:
    """Gives gymnasium a number of our choice for a random one."""

    def __init__(self, number):
        self.number = number

    def random(self):
        return self.number


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "ours"), [("FrozenLake-v1", FrozenLake), ("FrozenLake8x8-v1", FrozenLake8x8)])
def test_the_table_equals_gymnasiums(name, ours, options):
    theirs = gymnasium.make(name, **options).unwrapped
    table = ours(1, **options).table
    expected = TransitionTable.from_outcomes(theirs.P, theirs.initial_state_distrib)
    for column in ("next_state", "probability", "reward", "terminated", "initial"):
        assert torch.equal(getattr(table, column), getattr(expected, column)), column


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_play_equals_gymnasiums_from_every_state_with_the_same_random_number(options):
    theirs = gymnasium.make("FrozenLake-v1", **options).unwrapped
    theirs.reset(seed=0)
    states, actions = (grid.reshape(-1) for grid in np.meshgrid(range(theirs.observation_space.n), range(4)))
    ours = FrozenLake(len(states), **options)
    for number in (1 / 32, 5 / 16, 1 / 2, 11 / 16, 31 / 32):
        theirs.np_random = Dice(number)
        noise = torch.full((len(states), ours.num_step_random), number)
        after = ours.transition(torch.tensor(states), torch.tensor(actions), noise)
        for row, (state, action) in enumerate(zip(states, actions, strict=True)):
            theirs.s = int(state)
            observation, reward, terminated, _, _ = theirs.step(int(action))
            assert ours.observe(after[0])[row] == observation
            assert after[1][row].item() == np.float32(reward)
            assert bool(after[2][row]) == terminated


@pytest.mark.parametrize(("name", "ours"), [("FrozenLake-v1", FrozenLake), ("FrozenLake8x8-v1", FrozenLake8x8)])
def test_the_optimum_within_the_limit_is_that_of_a_recursion_over_gymnasiums_table(name, ours):
    theirs = gymnasium.make(name)
    values = np.zeros(theirs.observation_space.n)
    for _ in range(theirs.spec.max_episode_steps):
        rows = theirs.unwrapped.P
        values = np.array(
            [max(sum(p * (r + values[n] * (not t)) for p, n, r, t in rows[s][a]) for a in range(4)) for s in rows]
        )
    assert abs(ours(1).optimal_return - values[0]) < 1e-12
    assert ours(1).max_episode_steps == theirs.spec.max_episode_steps


def test_the_optimum_without_a_limit_is_14_in_17():
    values, _ = value_iteration(FrozenLake(1).table)
    assert abs(float(values[0]) - 14 / 17) < 1e-10
    values, _ = value_iteration(FrozenLake8x8(1).table)
    assert abs(float(values[0]) - 1.0) < 1e-10


@pytest.mark.parametrize(
    ("ours", "discount", "documented"), [(FrozenLake, 0.99, 0.7402), (FrozenLake8x8, 0.9957, 0.8936)]
)
def test_what_a_policy_earns_that_does_not_count_steps(ours, discount, documented):
    env = ours(1)
    _, policy = value_iteration(env.table, discount=discount)
    probs = torch.nn.functional.one_hot(policy, 4)
    earned = policy_values(env.table, probs, horizon=env.max_episode_steps)[0]
    assert round(float(earned), 4) == documented
    assert earned < env.optimal_return


def test_the_twin_is_used_for_gymnasiums_name():
    assert isinstance(make("FrozenLake-v1", num_envs=2), FrozenLake)
    larger = make("FrozenLake8x8-v1", num_envs=2)
    assert isinstance(larger, FrozenLake8x8)
    assert larger.resized(3).table is larger.table
    assert gymnasium.make("gumbelrl/FrozenLake8x8-v1").spec.max_episode_steps == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"map_name": "5x5"}, "no map '5x5': use 4x4 or 8x8"),
        ({"desc": ["SF", "G"]}, "rows of equal length"),
        ({"desc": ["SX", "FG"]}, "made of S, F, H and G"),
        ({"desc": ["FF", "FG"]}, "with a start S"),
        ({"success_rate": 1.5}, "success_rate must be from 0 to 1, got 1.5"),
        ({"reward_schedule": (1, 0)}, "a reward for the goal, a hole and ice"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        FrozenLake(1, **options)


def test_the_agent_is_where_the_text_says():
    env = FrozenLake(2)
    env.reset(0)
    env.state = torch.tensor([0, 6])
    assert env.describe(1) == " S  F  F  F \n F  H [F] H \n F  F  F  H \n H  F  F  G "
