"""MinAtar Seaquest against the package, and by hand."""

import functools
import itertools

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gumbelrl.envs import MinAtarSeaquest, check_batched_env, make

NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
NAME = "gumbelrl/MinAtar-Seaquest-v1"
# The columns of a step's noise: sticky, sides of a diver and an enemy, their rows, the enemy's kind.
STICKY, DIVER_SIDE, ENEMY_SIDE, DIVER_ROW, ENEMY_ROW, KIND = range(6)


class Chosen:
    """Gives the package the numbers that our step gets, in the order in which the package asks for them."""

    def __init__(self, game):
        self.game = game.env
        game.random = game.env.random = self

    def set(self, noise):
        self.uniform, self.row = [noise[STICKY]], []
        if self.game.e_spawn_timer == 0:
            self.uniform += [noise[ENEMY_SIDE], noise[KIND]]
            self.row += [noise[ENEMY_ROW]]
        if self.game.d_spawn_timer == 0:
            self.uniform += [noise[DIVER_SIDE]]
            self.row += [noise[DIVER_ROW]]

    def rand(self):
        return self.uniform.pop(0)

    def randint(self, low, high):
        return low + int(self.row.pop(0) * (high - low))


def package_games(count, **options):
    """Return games of the package and what their randomness comes from."""
    minatar = pytest.importorskip("minatar")
    games = [minatar.Environment("seaquest", **options) for _ in range(count)]
    return games, [Chosen(game) for game in games]


def put(game, state, row):
    """Put the player, timers and level of ours into the package's game, without any things."""
    inner = game.env
    game.reset()
    inner.sub_x, inner.sub_y, heading, inner.oxygen, inner.diver_count, level = state["player"][row].tolist()
    inner.d_spawn_timer, inner.e_spawn_timer, inner.shot_timer = state["timers"][row].tolist()
    inner.sub_or, inner.surface, inner.ramp_index = heading > 0, inner.sub_y == 0, level
    inner.e_spawn_speed, inner.move_speed = 20 - level, max(2, 5 - level // 2)
    game.last_action = 0


def hidden(game):
    """Return what a board does not show, of the package's game."""
    inner = game.env
    enemies = [(x, y, right, wait, -1) for x, y, right, wait in inner.e_fish]
    enemies += [(x, y, right, wait, reload) for x, y, right, wait, reload in inner.e_subs]
    divers = sorted((x, y, right, wait) for x, y, right, wait in inner.divers)
    numbers = [inner.oxygen, inner.diver_count, inner.d_spawn_timer, inner.e_spawn_timer, inner.shot_timer]
    return sorted(enemies), divers, [*numbers, 20 - inner.e_spawn_speed]


def unpacked(word):
    """Return column, row, whether it goes right, wait and steps until fire (−1 for fish) of a thing, None without one."""
    cell, wait, reload = word & 255, word >> 17 & 7, word >> 20
    return (cell % 16, cell // 16 - 1, word >> 16 & 1 == 1, wait, -1 if reload > 10 else reload) if cell % 16 < 10 else None


def our_hidden(state, row):
    """Return the same of a state of ours."""
    things = [unpacked(word) for word in state["things"][row].tolist()]
    divers = [thing[:4] for thing in things[:2] if thing]
    enemies = [thing for thing in things[2:] if thing]
    player, timers = state["player"][row].tolist(), state["timers"][row].tolist()
    return sorted(enemies), sorted(divers), [*player[3:5], *timers, player[5]]


def play_both(ours, starts, steps, policy, **options):
    """Play, compare everything in every step, and return what was seen."""
    games, chosen = package_games(ours.num_envs, **options)
    generator = torch.Generator().manual_seed(0)
    state = starts(ours, generator)
    for row, game in enumerate(games):
        put(game, state, row)
    seen = {"ended": 0, "reward": 0.0, "enemies": 0, "level": 0, "longest": 0, "lowest": 0}
    length = torch.zeros(ours.num_envs, dtype=torch.int64)
    for _ in range(steps):
        action = policy(ours, state, generator)
        noise = torch.rand(ours.num_envs, 6, generator=generator)
        fresh = starts(ours, generator)
        after, reward, over = ours.transition(state, action, noise)
        rewards, overs, boards = [], [], []
        for row, game in enumerate(games):
            chosen[row].set(noise[row].tolist())
            for value, values in zip(game.act(int(action[row])), (rewards, overs), strict=True):
                values.append(value)
            boards.append(game.state())
            assert hidden(game) == our_hidden(after, row)
            assert not chosen[row].uniform
        assert reward.tolist() == rewards
        assert over.tolist() == overs
        np.testing.assert_array_equal(ours.observe(after).numpy(), np.stack(boards))
        length += 1
        seen["ended"] += int(over.sum())
        seen["reward"] += float(reward.sum())
        seen["enemies"] = max(seen["enemies"], int((after["things"][:, 2:] % 16 < 10).sum(1).max()))
        seen["level"] = max(seen["level"], int(after["player"][:, 5].max()))
        seen["lowest"] = min(seen["lowest"], int(after["player"][:, 4].min()))
        seen["longest"] = max(seen["longest"], int(length.max()))
        length *= ~over
        state = {name: torch.where(over.view(-1, *[1] * (v.dim() - 1)), fresh[name], v) for name, v in after.items()}
        for row in over.nonzero()[:, 0].tolist():
            put(games[row], state, row)
    return seen


def usual(env, generator):
    return env.initial_state(torch.empty(env.num_envs, 0))


def randomly(env, state, generator):
    return torch.randint(6, (env.num_envs,), generator=generator)


@pytest.mark.parametrize("ramping", [True, False])
def test_equals_the_package_in_random_play(ramping):
    ours = MinAtarSeaquest(12, difficulty_ramping=ramping)
    seen = play_both(ours, usual, 500, randomly, difficulty_ramping=ramping)
    print(seen)


def at_sea(env, generator):
    """Return starts at any level, with any number of divers on board, some below 0, in any place."""
    state = usual(env, generator)
    count = env.num_envs
    state["player"][:, 0] = torch.randint(1, 9, (count,), generator=generator)
    state["player"][:, 1] = torch.randint(0, 9, (count,), generator=generator)
    state["player"][:, 3] = torch.randint(1, 201, (count,), generator=generator)
    state["player"][:, 4] = torch.randint(-2, 7, (count,), generator=generator)
    state["player"][:, 5] = torch.randint(0, 20, (count,), generator=generator)
    state["timers"][:, 0] = torch.randint(0, 30, (count,), generator=generator)
    state["timers"][:, 1] = 0
    return state


def diving(env, state, generator):
    """Return actions that shoot, and dive from the surface, where no enemy comes, and back."""
    down = torch.rand(env.num_envs, generator=generator)
    row = state["player"][:, 1]
    side = torch.where(torch.rand(env.num_envs, generator=generator) < 0.5, LEFT, RIGHT)
    action = torch.where(down < 0.4, FIRE, torch.where(down < 0.6, side, NOOP))
    action = torch.where((row > 0) & (down > 0.6), UP, action)
    return torch.where((row == 0) & (down > 0.9), DOWN, action)


def test_equals_the_package_at_sea():
    ours = MinAtarSeaquest(12)
    seen = play_both(ours, at_sea, 1200, diving)
    print(seen)
