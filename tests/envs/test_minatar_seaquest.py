"""MinAtar Seaquest against the package, and by hand."""

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
    inner.d_spawn_timer, inner.e_spawn_timer, inner.shot_timer = state["timers"][row, :3].tolist()
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


def our_enemies(state, row):
    """Return our enemies: column, row, whether it goes right, wait, steps until it fires (−1 for fish)."""
    words, clock, enemies = state["things"][row].tolist(), int(state["timers"][row, 3]), []
    for first, right in ((4, True), (13, False)):
        fish, submarine, *rest = words[first : first + 9]
        assert fish & submarine == 0
        for bit in range(60):
            if (fish | submarine) >> bit & 1:
                number = sum((word >> bit & 1) << index for index, word in enumerate(rest))
                column, phase = divmod(bit, 6)
                reload = (number // 8 - clock - 1) % 11 if submarine >> bit & 1 else -1
                enemies.append((column, number % 8 + 1, right, 5 - phase if right else phase, reload))
    return sorted(enemies)


def our_divers(state, row):
    """Return the divers in the same way, the newest first."""
    divers = []
    for word in state["things"][row, 2:4].tolist():
        column, phase = divmod(word & 63, 6)
        if column < 10:
            divers.append((9 - column if word & 64 else column, (word >> 7) + 1, not word & 64, 5 - phase))
    return divers


def our_hidden(state, row):
    """Return the same as `hidden` of a state of ours."""
    player, timers = state["player"][row].tolist(), state["timers"][row, :3].tolist()
    return our_enemies(state, row), sorted(our_divers(state, row)), [*player[3:5], *timers, player[5]]


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
        seen["enemies"] = max(seen["enemies"], *(len(our_enemies(after, row)) for row in range(ours.num_envs)))
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


# A bit an enemy ------------------------------------------------------------------------------------------------------


def pace(level):
    """Return the steps between enemies, and those that an enemy waits between moves."""
    return 20 - level, max(2, 5 - level // 2)


def following(level, ready):
    """Return all (level, whether to surface is possible in the next step): it takes a dive first."""
    return {(level, True)} | ({(min(level + 1, 19), False)} if ready else set())


def moved(enemy, level):
    column, wait = enemy
    return (column + 1, pace(level)[1]) if wait == 0 else (column, wait - 1)


def pairs_of_enemies():
    """Yield what two enemies are at the same time, (column, wait), and by how many steps the first is the older.

    Whenever a player surfaces, and whichever enemy comes as the next after one; 100,000 situations.
    """
    todo = [(level, True, 0, None, None, 0) for level in range(20)]
    known = set(todo)
    while todo:
        level, ready, timer, first, second, age = todo.pop()
        every, wait = pace(level)
        choices = [(first, second, timer)]
        if timer == 0:
            choices = [(first or (0, wait), second, every)]
            choices += [(first, (0, wait), every)] if first and not second else []
        for one, other, left in choices:
            if other:
                yield one, other, age
            one, other = moved(one, level), other and moved(other, level)
            if one[0] <= 9:
                older = age if other else age + 1
                new = {(*after, left - 1, one, other, older) for after in following(level, ready)} - known
                known |= new
                todo += new
    assert len(known) > 100_000


def test_enemies_stay_behind_those_before_them():
    """So none has the column and the wait of another, in whatever row, and the furthest ahead came first."""
    for (column, wait), (other_column, other_wait), _ in pairs_of_enemies():
        assert (column, -wait) > (other_column, -other_wait)


def test_submarines_that_fire_together_are_in_different_columns():
    """All fire every 11 steps; those that do so in the same step are 11 steps apart, or 22, and so on."""
    for (column, _), (other_column, _), age in pairs_of_enemies():
        assert age % 11 != 0 or column > other_column


# By hand -------------------------------------------------------------------------------------------------------------

CHANNELS = MinAtarSeaquest.channels
LAST = 1 - 2**-20  # a number that chooses the last of all


def start(column=5, row=0, heading=-1, air=200, aboard=0, level=0, **options):
    """Return a game without stickiness in which nothing comes for a long time."""
    env = MinAtarSeaquest(1, sticky_action_prob=0.0, **options)
    env.reset(0)
    env.state["player"][0] = torch.tensor([column, row, heading, air, aboard, level])
    env.state["timers"][0, :3] = torch.tensor([1000, 1000, 0])
    return env


def add(env, column, row, heading, wait=5, reload=None):
    """Add an enemy, a fish unless steps until it fires are given."""
    word = env.state["things"][0]
    lane, bit = (4, 1 << 6 * column + 5 - wait) if heading > 0 else (13, 1 << 6 * column + wait)
    word[lane + (reload is not None)] |= bit
    number = row - 1 + (0 if reload is None else 8 * ((reload + int(env.state["timers"][0, 3]) + 1) % 11))
    for index in range(7):
        word[lane + 2 + index] |= bit * (number >> index & 1)


def add_bullet(env, column, row, heading):
    """Add a bullet of an enemy."""
    env.state["things"][0, (22 if heading > 0 else 24) + (row - 1) // 4] |= 1 << 6 * column + (row - 1) % 4


def add_diver(env, slot, column, row, heading, wait=5):
    steps = 6 * (column if heading > 0 else 9 - column) + 5 - wait
    env.state["things"][0, 2 + slot] = steps | 64 * (heading < 0) | row - 1 << 7


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
        add(env, 6, 3, heading)
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
        assert [enemy[3] for enemy in our_enemies(env.state, 0)] == [wait - 1]


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
        add(env, 0, 2, 1)
        add_bullet(env, shot, 2, 1)
        assert act(env, NOOP)[1] == over
    for column, wait, over in ((4, 0, True), (4, 1, False), (5, 3, True)):
        env = start(column=5, row=2)
        add(env, column, 2, 1, wait=wait)
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
    add(env, 3, 4, -1, wait=3)
    add(env, 3, 4, -1, wait=2)
    add(env, 3, 4, -1, wait=1, reload=5)
    for left in ([1, 3], [1], []):
        env.state["timers"][0, 2] = 0
        reward, over, _ = act(env, FIRE)
        assert reward == 1.0
        assert not over
        env.state["things"][0, 13:22] <<= 1  # they wait
        assert [enemy[3] for enemy in our_enemies(env.state, 0)] == left


def test_an_enemy_that_moves_into_a_bullet_is_hit():
    env = start(column=1, row=4, heading=1)
    add(env, 3, 4, -1, wait=0)
    reward, _, cells = act(env, FIRE)
    assert reward == 1.0
    assert cells["enemy_fish"] == cells["friendly_bullet"] == []


def test_divers_board_up_to_six():
    for aboard, boards in ((0, True), (5, True), (6, False)):
        env = start(column=5, row=2, aboard=aboard)
        add_diver(env, 0, 6, 2, -1, wait=0)
        _, over, cells = act(env, NOOP)
        assert not over
        assert cells["diver"] == ([] if boards else [(2, 5)])
        assert cells["diver_gauge"] == [(9, column) for column in range(9 - min(aboard + 1, 6), 9)]
    env = start(column=5, row=2, aboard=5)
    add_diver(env, 0, 5, 2, -1)
    add_diver(env, 1, 5, 2, 1)
    act(env, NOOP)
    assert env.state["player"][0, 4] == 6
    assert our_divers(env.state, 0) == [(5, 2, True, 4)]  # the older one stays


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
    assert all(value.dtype == torch.int64 for value in env.state.values())


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is a bad image: it is a board
def test_is_an_environment_of_gymnasium_and_stable_baselines():
    env = gymnasium.make(NAME, render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    check_env_sb3(env)
    assert gymnasium.spec(NAME).max_episode_steps is None


def test_refuses_a_state_of_the_version_with_a_word_a_thing():
    env = MinAtarSeaquest(3)
    env.reset(0)
    saved = env.state_dict()
    env.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"cannot be gone on with: its things are torch.int32 of shape \(3, 32\)"):
        env.load_state_dict(saved | {"state.things": torch.zeros(3, 32, dtype=torch.int32)})


def test_refuses_bad_options():
    with pytest.raises(ValueError, match="sticky_action_prob is a probability, from 0 to 1"):
        make(NAME, num_envs=2, sticky_action_prob=1.5)


def test_describes_oxygen_and_divers():
    assert "150 steps of oxygen, 3 divers on board, level 2" in start(air=150, aboard=3, level=2).describe(0)
