"""MinAtar Seaquest against the package, and by hand."""

import functools

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
    """Return a thing's column, row, whether it goes right, wait, steps until fire (−1 for fish); None without one."""
    cell, wait, reload = word & 255, word >> 17 & 7, word >> 20
    return (
        (cell % 16, cell // 16 - 1, word >> 16 & 1 == 1, wait, -1 if reload > 10 else reload)
        if cell % 16 < 10
        else None
    )


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
    ours = MinAtarSeaquest(10, difficulty_ramping=ramping)
    seen = play_both(ours, usual, 300, randomly, difficulty_ramping=ramping)
    assert seen["ended"] > 50
    assert seen["reward"] > 5


def at_sea(env, generator):
    """Return starts at any level, with any number of divers on board, some below 0, in any place."""
    state = usual(env, generator)

    def integers(low, high):
        return torch.randint(low, high, (env.num_envs,), generator=generator, dtype=torch.int32)

    for part, (low, high) in enumerate([(1, 9), (0, 9), (0, 1), (1, 201), (-2, 7), (0, 20)]):
        state["player"][:, part] = integers(low, high)
    state["player"][:, 2] = 2 * integers(0, 2) - 1
    state["timers"][:, 0], state["timers"][:, 1] = integers(0, 30), 0
    return state


def diving(env, state, generator):
    """Return actions that shoot, and dive from the surface, where no enemy comes, and back."""
    chance = torch.rand(env.num_envs, generator=generator)
    row = state["player"][:, 1]
    side = torch.where(torch.rand(env.num_envs, generator=generator) < 0.5, LEFT, RIGHT)
    action = torch.where(chance < 0.4, FIRE, torch.where(chance < 0.6, side, NOOP))
    action = torch.where((row > 0) & (chance > 0.6), UP, action)
    return torch.where((row == 0) & (chance > 0.9), DOWN, action)


def test_equals_the_package_at_sea():
    """Seas full of enemies, all levels, long games, surfacing with any number of divers."""
    ours = MinAtarSeaquest(10)
    seen = play_both(ours, at_sea, 900, diving)
    assert seen["ended"] > 50
    assert seen["reward"] > 100
    assert seen["level"] == 19
    assert seen["enemies"] > 15
    assert seen["lowest"] < -3
    assert seen["longest"] > 150


# The slots -----------------------------------------------------------------------------------------------------------


def pace(level):
    """Return the steps between enemies, and those that an enemy waits between moves."""
    return 20 - level, max(2, 5 - level // 2)


def following(level, ready):
    """Return all (level, whether to surface is possible in the next step): it takes a dive first."""
    return {(level, True)} | ({(min(level + 1, 19), False)} if ready else set())


def moved(enemy, level):
    column, wait = enemy
    return (column + 1, pace(level)[1]) if wait == 0 else (column, wait - 1)


@functools.cache
def most_to_come(level, ready, timer, enemy):
    """Return how many enemies at most come from this step on, before this one has left."""
    come, timer = (1, pace(level)[0]) if timer == 0 else (0, timer)
    enemy = moved(enemy, level)
    if enemy[0] > 9:
        return come
    return come + max(most_to_come(*after, timer - 1, enemy) for after in following(level, ready))


def test_thirty_slots_are_enough_and_needed():
    """Whenever a player surfaces: with the first, at most thirty enemies come while the first is there."""
    counts = []
    for level in range(20):
        every, wait = pace(level)
        enemy = moved((0, wait), level)
        counts += [1 + most_to_come(*after, every - 1, enemy) for after in following(level, True)]
    assert max(counts) == 30


def test_enemies_of_a_row_never_have_the_same_cell_and_wait():
    """Whenever a player surfaces, and whichever enemy comes into the row as the next after one; 30,000 situations."""
    todo = [(level, True, 0, None, None) for level in range(20)]
    known = set(todo)
    while todo:
        level, ready, timer, first, second = todo.pop()
        every, wait = pace(level)
        choices = [(first, second, timer)]
        if timer == 0:
            choices = [(first or (0, wait), second, every)]
            choices += [(first, (0, wait), every)] if first and not second else []
        for one, other, left in choices:
            assert one != other
            one, other = moved(one, level), other and moved(other, level)
            if one[0] <= 9:
                new = {(*after, left - 1, one, other) for after in following(level, ready)} - known
                known |= new
                todo += new
    assert len(known) > 10_000


# By hand -------------------------------------------------------------------------------------------------------------

CHANNELS = MinAtarSeaquest.channels
LAST = 1 - 2**-20  # a number that chooses the last of all


def start(column=5, row=0, heading=-1, air=200, aboard=0, level=0, **options):
    """Return a game without stickiness in which nothing comes for a long time."""
    env = MinAtarSeaquest(1, sticky_action_prob=0.0, **options)
    env.reset(0)
    env.state["player"][0] = torch.tensor([column, row, heading, air, aboard, level])
    env.state["timers"][0] = torch.tensor([1000, 1000, 0])
    return env


def add(env, slot, column, row, heading, wait=5, reload=127, shot=None):
    """Put a thing into a slot, 0 and 1 of divers, others of enemies."""
    cell = 16 * (row + 1) + column
    bullet = 252 if shot is None else 16 * (row + 1) + shot
    env.state["things"][0, slot] = cell | bullet << 8 | (heading > 0) << 16 | wait << 17 | reload << 20


def act(env, *actions, noise=(0.0,) * 5):
    """Act, and return the reward, whether the game is over and where (row, column) each channel was seen at last."""
    for action in actions:
        state, reward, over = env.transition(env.state, torch.tensor([action]), torch.tensor([[1.0, *noise]]))
        env.state = state
    board = env.observe(env.state)[0]
    cells = {name: [tuple(cell) for cell in board[:, :, i].nonzero().tolist()] for i, name in enumerate(CHANNELS)}
    return float(reward), bool(over), cells


def test_starts_at_the_surface_with_full_oxygen():
    env = MinAtarSeaquest(1)
    board = env.reset(0)[0]
    assert board[:, :, 0].nonzero().tolist() == [[0, 5]]
    assert board[:, :, 1].nonzero().tolist() == [[0, 6]]  # looks left
    assert board[9, :, 7].all()
    assert int(board.sum()) == 12


def test_moves_and_turns_within_its_rows():
    env = start()
    _, _, cells = act(env, RIGHT, DOWN)
    assert (cells["sub_front"], cells["sub_back"]) == ([(1, 6)], [(1, 5)])
    _, _, cells = act(env, *[DOWN] * 10, *[LEFT] * 10)
    assert (cells["sub_front"], cells["sub_back"]) == ([(8, 0)], [(8, 1)])


@pytest.mark.parametrize("side", [0.0, 0.5])
def test_an_enemy_comes_after_20_steps_moves_every_6_and_leaves_after_60(side):
    env = start()
    env.state["timers"][0, 1] = 20
    noise = (0.0, side, 0.0, LAST, 0.9)
    _, _, cells = act(env, *[NOOP] * 20, noise=noise)
    assert cells["enemy_fish"] == []
    columns, trails = [], []
    for _ in range(60):
        _, _, cells = act(env, NOOP, noise=noise)
        env.state["timers"][0, 1] = 1000
        columns += [column for _, column in cells["enemy_fish"]]
        trails += [column for _, column in cells["trail"]]
        assert all(row == 8 for row, _ in cells["enemy_fish"])
    crossing = [column for column in range(10) for _ in range(6)][1:]
    behind = [column - 1 for column in crossing if column > 0]
    mirrored = side == 0.5
    assert columns[: len(crossing)] == [9 - column if mirrored else column for column in [0] * 5 + crossing[5:]]
    assert trails == [9 - column if mirrored else column for column in behind]
    assert len(columns) == 59


def test_no_enemy_comes_towards_another_in_its_row():
    for heading, comes in ((1, True), (-1, False)):
        env = start()
        add(env, 2, 6, 3, heading)
        env.state["timers"][0, 1] = 0
        _, _, cells = act(env, NOOP, noise=(0.0, 0.0, 0.0, 2.5 / 8, 0.9))
        assert cells["enemy_fish"] == ([(3, 0), (3, 6)] if comes else [(3, 6)])
        assert env.state["timers"][0, 1] == 19


def test_enemies_come_faster_and_are_faster_at_higher_levels():
    for level, (every, wait) in {0: (20, 5), 1: (19, 5), 2: (18, 4), 6: (14, 2), 19: (1, 2)}.items():
        env = start(level=level)
        env.state["timers"][0, 1] = 0
        act(env, NOOP)
        assert env.state["timers"][0, 1] == every - 1
        assert unpacked(int(env.state["things"][0, 2]))[3] == wait - 1


def test_a_submarine_fires_after_10_steps_and_every_11():
    env = start()
    env.state["timers"][0, 1] = 0
    fired = []
    for time in range(40):
        _, _, cells = act(env, NOOP, noise=(0.0, 0.0, 0.0, 0.0, 0.3))
        env.state["timers"][0, 1] = 1000
        fired += [(time, column) for _, column in cells["enemy_bullet"]]
    assert cells["enemy_sub"] == [(1, 6)]
    # From column 1 in step 10, 3 in step 21, 5 in step 32; seen after a step of flight.
    flights = [(10 + step, 2 + step) for step in range(8)]
    flights += [(21 + step, 4 + step) for step in range(6)]
    flights += [(32 + step, 6 + step) for step in range(4)]
    assert fired == flights


def test_bullets_of_enemies_and_enemies_end_the_game():
    for shot, over in ((4, True), (3, False), (5, True)):
        env = start(column=5, row=2)
        add(env, 2, 0, 2, 1, shot=shot)
        assert act(env, NOOP)[1] == over
    for column, wait, over in ((4, 0, True), (4, 1, False), (5, 3, True)):
        env = start(column=5, row=2)
        add(env, 2, column, 2, 1, wait=wait)
        assert act(env, NOOP)[1] == over


def test_fires_ahead_every_five_steps():
    env = start(column=2, row=4, heading=1)
    _, _, cells = act(env, FIRE)
    assert cells["friendly_bullet"] == [(4, 3)]
    _, _, cells = act(env, *[FIRE] * 4)
    assert cells["friendly_bullet"] == [(4, 7)]
    _, _, cells = act(env, FIRE)
    assert cells["friendly_bullet"] == [(4, 3), (4, 8)]
    _, _, cells = act(env, NOOP, NOOP)
    assert cells["friendly_bullet"] == [(4, 5)]


def test_a_bullet_hits_one_enemy_fish_first_then_the_oldest():
    env = start(column=2, row=4, heading=1)
    add(env, 2, 3, 4, -1, wait=3)
    add(env, 3, 3, 4, -1, wait=2)
    add(env, 4, 3, 4, -1, wait=1, reload=5)
    for left in ([True, False, True], [False, False, True], [False, False, False]):
        env.state["timers"][0, 2] = 0
        reward, over, _ = act(env, FIRE)
        assert reward == 1.0
        assert not over
        assert [unpacked(int(env.state["things"][0, slot])) is not None for slot in (2, 3, 4)] == left
        env.state["things"][0, 2:5] += 1 << 17  # they wait


def test_an_enemy_that_moves_into_a_bullet_is_hit():
    env = start(column=1, row=4, heading=1)
    add(env, 2, 3, 4, -1, wait=0)
    reward, _, cells = act(env, FIRE)
    assert reward == 1.0
    assert cells["enemy_fish"] == cells["friendly_bullet"] == []


def test_divers_board_up_to_six():
    for aboard, boards in ((0, True), (5, True), (6, False)):
        env = start(column=5, row=2, aboard=aboard)
        add(env, 0, 6, 2, -1, wait=0)
        _, over, cells = act(env, NOOP)
        assert not over
        assert cells["diver"] == ([] if boards else [(2, 5)])
        assert cells["diver_gauge"] == [(9, column) for column in range(9 - min(aboard + 1, 6), 9)]
    env = start(column=5, row=2, aboard=5)
    add(env, 0, 5, 2, -1)
    add(env, 1, 5, 2, 1)
    act(env, NOOP)
    assert env.state["player"][0, 4] == 6
    assert unpacked(int(env.state["things"][0, 0])) is None
    assert unpacked(int(env.state["things"][0, 1])) is not None  # the older one stays


def test_divers_come_every_30_steps():
    env = start()
    env.state["timers"][0, 0] = 30
    seen = [len(act(env, NOOP, noise=(0.0, 0.0, LAST, 0.0, 0.0))[2]["diver"]) for _ in range(121)]
    assert seen == [0] * 30 + [1] * 30 + [2] * 29 + [1] + [2] * 29 + [1] + [2]


@pytest.mark.parametrize(
    ("aboard", "air", "reward", "left", "over"),
    [
        (0, 100, 0.0, 0, True),
        (1, 100, 0.0, 0, False),
        (5, 100, 0.0, 4, False),
        (6, 119, 5.0, -1, False),
        (-1, 9, 0, -2, False),
    ],
)
def test_surfacing(aboard, air, reward, left, over):
    env = start(row=1, aboard=aboard, air=air)
    got, ended, cells = act(env, UP)
    assert (got, ended) == (reward, over)
    assert env.state["player"][0].tolist()[3:] == [air if over else 200, left, int(not over)]
    assert len(cells["diver_gauge"]) == max(left, 0)
    # Staying there changes nothing more.
    before = env.state["player"].clone()
    assert act(env, NOOP)[0] == 0.0
    assert torch.equal(env.state["player"], before)


def test_the_level_stays_without_ramping():
    env = start(row=1, aboard=2, difficulty_ramping=False)
    act(env, UP)
    assert env.state["player"][0, 5] == 0


def test_oxygen_lasts_for_200_steps_under_water():
    env = start()
    for time in range(1, 202):
        _, over, cells = act(env, DOWN)
        assert over == (time == 201)
        assert len(cells["oxygen_gauge"]) == max(200 - time, 0) // 20


# Contract ------------------------------------------------------------------------------------------------------------


def test_keeps_the_contract():
    env = MinAtarSeaquest(3)
    check_batched_env(env, steps=80)
    assert all(value.dtype == torch.int32 for name, value in env.state.items() if name != "last_action")


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is a bad image: it is a board
def test_is_an_environment_of_gymnasium_and_stable_baselines():
    env = gymnasium.make(NAME, render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    check_env_sb3(env)
    assert gymnasium.spec(NAME).max_episode_steps is None


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="sticky_action_prob is a probability, from 0 to 1"):
        make(NAME, num_envs=2, sticky_action_prob=1.5)


def test_describes_oxygen_and_divers():
    assert "150 steps of oxygen, 3 divers on board, level 2" in start(air=150, aboard=3, level=2).describe(0)
