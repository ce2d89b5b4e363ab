"""MinAtar's shared frame; Breakout, Freeway and Asterix against the package (their rules by hand: `*_rules`)."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from gumbelrl.envs import MinAtarAsterix, MinAtarBreakout, MinAtarFreeway, check_batched_env, make
from gumbelrl.envs import minatar_freeway as freeway

GAMES = {"breakout": MinAtarBreakout, "freeway": MinAtarFreeway, "asterix": MinAtarAsterix}
NAMES = {"breakout": "Breakout", "freeway": "Freeway", "asterix": "Asterix"}


# Against the package -------------------------------------------------------------------------------------------------


class Choices:
    """Stands in for numpy's RandomState: answers what our uniform numbers of one environment and step mean."""

    def __init__(self, noise):
        self.left = list(noise)

    def rand(self, count=None):
        return float(self.left.pop(0)) if count is None else np.where(self.speeds > 0, 0.75, 0.25)

    def randint(self, low, high=None, size=None):
        if size is None:
            return int(self.left.pop(0) * np.float32(low))
        assert (low, high, size) == (1, 6, 8)
        pairs = [int(self.left.pop(0) * np.float32(100)) for _ in range(4)]
        self.speeds = np.array([freeway.SPEEDS[i] for pair in pairs for i in divmod(pair, 10)])
        return abs(self.speeds)


class Twins:
    """A batch of ours beside as many games of the package, which take their random choices from our numbers."""

    def __init__(self, package, game, count, *, golden=False, **options):
        ours = {"sticky_action_prob": 0.1, "difficulty_ramping": True, "minimal_actions": True} | options
        self.ours = GAMES[game](count, **ours)
        drawn = self.ours._uniform

        def uniform(number):
            noise = drawn(number)
            if golden and number:  # every thing of Asterix is gold: the game goes on for ever
                noise[:, 2] /= 3.0
            self.noise = noise.numpy()
            return noise

        self.ours._uniform = uniform
        self.theirs = [
            package.Environment(game, ours["sticky_action_prob"], ours["difficulty_ramping"]) for _ in range(count)
        ]
        for env in self.theirs:
            env.seed(0)
        self.actions = self.theirs[0].minimal_action_set() if ours["minimal_actions"] else list(range(6))
        assert len(self.actions) == self.ours.single_action_space.n

    def reset(self, seed):
        seen = self.ours.reset(seed)
        for row in range(len(self.theirs)):
            self.restart(row)
        self.check(seen)

    def restart(self, row):
        env = self.theirs[row]
        env.random = env.env.random = Choices(self.noise[row, : self.ours.num_random])
        env.last_action = 0
        env.reset()

    def step(self, action):
        """Step both, compare all, and return our step."""
        step = self.ours.step(action)
        results = []
        for row, env in enumerate(self.theirs):
            env.random = env.env.random = Choices(self.noise[row, self.ours.num_random :])
            results.append(env.act(self.actions[int(action[row])]))
        assert list(zip(step.reward.tolist(), step.terminated.tolist(), strict=True)) == results
        self.check(step.final_observation)
        for row in step.terminated.nonzero()[:, 0].tolist():
            self.restart(row)
        self.check(step.observation)
        return step

    def check(self, seen):
        assert np.array_equal(seen.numpy(), np.stack([env.state() for env in self.theirs]))


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("minatar", reason="the package minatar is not installed")


def play(twins, policy, steps, seed=0):
    """Return the rewards and ends of `steps` compared steps, `[time, env]`."""
    generator = torch.Generator().manual_seed(seed)
    twins.reset(seed)
    taken = [twins.step(policy(twins.ours, generator)) for _ in range(steps)]
    return torch.stack([s.reward for s in taken]), torch.stack([s.terminated for s in taken])


def anything(env, generator):
    return torch.randint(int(env.single_action_space.n), (env.num_envs,), generator=generator)


def follow_ball(env, generator):
    """Move the paddle below the ball, or below where it goes to."""
    ahead = torch.rand(env.num_envs, generator=generator) < 0.5
    flight = torch.where(ahead, env._ahead[env.state["flight"]], env.state["flight"])
    way = flight // 4 % 10 - env.state["paddle"]
    return torch.where(way > 0, 2, torch.where(way < 0, 1, 0))


def go_up(env, generator):
    up = torch.rand(env.num_envs, generator=generator) < 0.9
    return torch.where(up, env.action_names.index("up"), anything(env, generator))


OPTIONS = [{}, {"sticky_action_prob": 0.0, "difficulty_ramping": False}, {"minimal_actions": False}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("game", ["breakout", "asterix"])
def test_equals_the_package_in_random_play(package, game, options):
    """Eight games of each, 400 steps: dozens of episodes."""
    _, ends = play(Twins(package, game, 8, **options), anything, 400)
    assert ends.sum() > 20


def test_breakout_equals_the_package_where_walls_are_cleared(package):
    rewards, ends = play(Twins(package, "breakout", 4, sticky_action_prob=0.01), follow_ball, 800)
    assert ends.any()
    episode = torch.zeros(4)
    most = 0.0
    for reward, end in zip(rewards, ends, strict=True):
        episode = episode + reward
        most = max(most, float(episode.max()))
        episode = episode * ~end
    assert most > 40  # more than a wall has


def test_freeway_equals_the_package_over_the_end_of_an_episode(package):
    """The time left is the same at the start; then all but the last 100 steps are left out."""
    twins = Twins(package, "freeway", 4)
    twins.reset(0)
    assert [env.env.terminate_timer for env in twins.theirs] == twins.ours.state["time"].tolist()
    twins.ours.state["time"][:] = 99
    for env in twins.theirs:
        env.env.terminate_timer = 99
    generator = torch.Generator().manual_seed(0)
    ends = [bool(twins.step(go_up(twins.ours, generator)).terminated.all()) for _ in range(130)]
    assert [time for time, end in enumerate(ends) if end] == [99]


@pytest.mark.parametrize("options", OPTIONS)
def test_freeway_equals_the_package_in_many_games(package, options):
    rewards, _ = play(Twins(package, "freeway", 8, **options), go_up, 400)
    assert rewards.sum() > 8


@pytest.mark.parametrize(("ramping", "steps"), [(True, 960), (False, 150)])
def test_asterix_equals_the_package_at_every_speed(package, ramping, steps):
    """All things are gold, so that no game ends: past the last change of speed, after the 918th step."""
    rewards, ends = play(Twins(package, "asterix", 3, golden=True, difficulty_ramping=ramping), anything, steps)
    assert not ends.any()
    assert rewards.sum() > 3


def test_our_random_play_scores_what_the_package_states():
    """Its README: 0.5 with a standard error of 0.023 over 1,000 episodes of Breakout, all six actions."""
    env = MinAtarBreakout(2000, minimal_actions=False)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    returns, first = torch.zeros(2000), torch.ones(2000, dtype=torch.bool)
    for _ in range(200):
        step = env.step(anything(env, generator))
        returns += step.reward * first
        first &= ~step.terminated
    assert not first.any()
    error = math.hypot(0.023, float(returns.std()) / math.sqrt(2000))
    assert abs(float(returns.mean()) - 0.5) < 5 * error


# The frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "options"),
    [("breakout", {}), ("freeway", {}), ("asterix", {}), ("asterix", {"minimal_actions": False})],
)
def test_keeps_the_contract(game, options):
    check_batched_env(GAMES[game](2, **options), steps=100, random_steps=3000)


@pytest.mark.filterwarnings("ignore:.*image.*:UserWarning")
@pytest.mark.parametrize("game", NAMES.values())
def test_passes_gymnasiums_and_sb3s_checks(game):
    name = f"gumbelrl/MinAtar-{game}-v1"
    check_env(gymnasium.make(name, render_mode="rgb_array").unwrapped, skip_render_check=False)
    check_sb3_env(gymnasium.make(name).unwrapped)


@pytest.mark.parametrize(("game", "actions", "channels"), [("breakout", 3, 4), ("freeway", 3, 7), ("asterix", 5, 4)])
def test_spaces_are_those_of_the_package(game, actions, channels):
    env = make(f"MinAtar/{NAMES[game]}-v1", num_envs=2)
    assert isinstance(env, GAMES[game])
    assert env.single_action_space == gymnasium.spaces.Discrete(actions)
    assert env.single_observation_space == gymnasium.spaces.Box(0.0, 1.0, (10, 10, channels), dtype=bool)
    assert env.max_episode_steps is None
    assert GAMES[game](1, minimal_actions=False).single_action_space == gymnasium.spaces.Discrete(6)


@pytest.mark.parametrize("prob", [-0.1, 1.5, math.nan])
def test_refuses_a_stickiness_that_is_no_probability(prob):
    with pytest.raises(ValueError, match="sticky_action_prob is a probability"):
        MinAtarBreakout(1, sticky_action_prob=prob)


def test_sticky_actions_repeat_what_was_carried_out():
    """Asked for left and right in turn, the paddle's move says what was done; 50,000 steps, 5 standard errors."""
    env = MinAtarBreakout(1000)
    env.reset(0)
    done, repeats = torch.zeros(1000, dtype=torch.int64), 0
    for time in range(50):
        asked = torch.full((1000,), 1 + time % 2)
        fresh = env.step(asked).terminated
        before, done = done, env.state["last_action"]
        assert ((done == asked) | (done == before) | fresh).all()
        assert (done[fresh] == 0).all()
        repeats += int((~fresh & (done == before) & (before != asked)).sum())
        eligible = int((~fresh & (before != asked)).sum()) + (0 if time == 0 else eligible)
    assert abs(repeats / eligible - 0.1) < 5 * math.sqrt(0.09 / eligible)


def test_stuck_for_good_nothing_is_ever_done():
    env = MinAtarBreakout(4, sticky_action_prob=1.0)
    env.reset(0)
    for _ in range(4):
        env.step(torch.tensor([0, 1, 2, 2]))
    assert env.state["paddle"].tolist() == [4, 4, 4, 4]


@pytest.mark.parametrize("game", GAMES)
def test_text_shows_a_board_and_its_legend(game):
    env = GAMES[game](2)
    env.reset(0)
    lines = env.describe(1).splitlines()
    assert [len(line) for line in lines[:10]] == [10] * 10
    assert all(name in lines[10] for name in env.channels)
    assert env.symbols[0] in "".join(lines[:10])
