"""MinAtar Space Invaders against the package, and by hand."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gumbelrl.envs import MinAtarSpaceInvaders, check_batched_env, make
from gumbelrl.envs.conformance import check_forms, check_refusals

NOOP, LEFT, RIGHT, FIRE = range(4)
NAME = "gumbelrl/MinAtar-SpaceInvaders-v1"


class Chosen:
    """Gives the package the uniform number that our step gets."""

    value = 1.0

    def rand(self):
        return self.value


def package_games(count, **options):
    """Return games of the package and what their randomness comes from."""
    minatar = pytest.importorskip("minatar")
    games = [minatar.Environment("space_invaders", **options) for _ in range(count)]
    for game in games:
        game.random = Chosen()
    return games


def boards(games):
    return np.stack([game.state() for game in games])


# Where the parts of a state are.
PLACES = {
    "cannon": ("place", (1, 0)),
    "shot_row": ("place", (0, slice(1, 3))),
    "shot_column": ("place", (1, slice(1, 3))),
    "bomb_row": ("place", (0, 3)),
    "bomb_column": ("place", (1, 3)),
    "reload": ("timers", (0,)),
    "bomb_in": ("timers", (1,)),
    "move_in": ("timers", (2,)),
    "aliens": ("formation", (0,)),
    "left_over": ("formation", (1,)),
    "top": ("formation", (2,)),
    "left": ("formation", (3,)),
    "right": ("march", (0,)),
    "waves": ("march", (1,)),
}


def part(state, name):
    entry, index = PLACES[name]
    return state[entry][(slice(None), *index)]


def put(game, state, row):
    """Put a state of ours into the package's game."""
    inner, value = game.env, {name: part(state, name)[row].numpy() for name in PLACES}
    inner.alien_map[:] = 0
    for index in range(24):
        if int(value["aliens"]) >> index & 1:
            inner.alien_map[(value["top"] + index // 6) % 10, value["left"] + index % 6] = 1
    inner.f_bullet_map[:] = inner.e_bullet_map[:] = 0
    for shot_row, shot_column in zip(value["shot_row"], value["shot_column"], strict=True):
        inner.f_bullet_map[max(shot_row, 0), shot_column] += shot_row >= 0
    inner.e_bullet_map[min(value["bomb_row"], 9), value["bomb_column"]] = value["bomb_row"] < 10
    inner.pos, inner.alien_dir, inner.terminal = int(value["cannon"]), 2 * int(value["right"]) - 1, False
    inner.shot_timer, inner.alien_move_timer = int(value["reload"]), int(value["move_in"])
    inner.alien_shot_timer, inner.ramp_index = int(value["bomb_in"]), int(value["waves"])
    inner.enemy_move_interval, game.last_action = 12 - int(value["waves"]), 0


def skilful(env, state):
    """Return actions that dodge bombs and shoot at where the aliens will be; a game lasts two waves on average."""
    cannon, column, row = (part(state, name) for name in ("cannon", "bomb_column", "bomb_row"))
    board = env.observe(state)[..., 1]
    flight = 8 - (board * torch.arange(10).view(10, 1)).amax(1).clamp_max(8)
    every = torch.minimum(part(state, "left_over"), 12 - part(state, "waves")).unsqueeze(1)
    moves = (flight + every - 1 - part(state, "move_in").unsqueeze(1)).clamp_min(0) // every
    aim = torch.arange(10) + (2 * part(state, "right").unsqueeze(1) - 1) * moves
    aim = torch.where(aim < 0, -aim, torch.where(aim > 9, 18 - aim, aim)).clamp(0, 9)
    distance = torch.where(board.any(1), (aim - cannon.unsqueeze(1)).abs(), 99)
    target = aim.gather(1, distance.argmin(1, keepdim=True))[:, 0]
    falling = (row < 9) & (row >= 6)
    action = torch.where(part(state, "reload") == 0, FIRE, NOOP)
    action = torch.where((target > cannon) & ~(falling & (column == cannon + 1)), RIGHT, action)
    action = torch.where((target < cannon) & ~(falling & (column == cannon - 1)), LEFT, action)
    away = torch.where((cannon == 9) | ((cannon > 0) & (target < cannon)), LEFT, RIGHT)
    return torch.where(falling & (column == cannon), away, action)


def play_both(ours, games, steps, policy):
    """Play, compare everything in every step, and return how often games ended, reward was given and the top wave."""
    generator = torch.Generator().manual_seed(0)
    seen = {"ended": 0, "reward": 0.0, "waves": 0, "landed": 0}
    package_action = games[0].env.minimal_action_set()
    state = ours.state
    for _ in range(steps):
        action = policy(ours, state, generator)
        noise = torch.rand(ours.num_envs, 1, generator=generator)
        fresh = ours.initial_state(noise[:, :0])
        after, reward, over = ours.transition(state, action, noise)
        for index, game in enumerate(games):
            game.random.value = float(noise[index, 0])
            their_reward, their_over = game.act(package_action[int(action[index])])
            assert reward[index] == their_reward
            assert bool(over[index]) == bool(their_over)
        np.testing.assert_array_equal(ours.observe(after).numpy(), boards(games))
        seen["ended"] += int(over.sum())
        seen["reward"] += float(reward.sum())
        seen["waves"] = max(seen["waves"], int(part(after, "waves").max()))
        seen["landed"] += int((over & (part(after, "top") > 6)).sum())
        state = {name: torch.where(over.view(-1, *[1] * (v.dim() - 1)), fresh[name], v) for name, v in after.items()}
        for index in over.nonzero()[:, 0].tolist():
            games[index].reset()
            games[index].last_action = 0
    return seen


def randomly(env, state, generator):
    return torch.randint(4, (env.num_envs,), generator=generator)


def mostly_skilful(env, state, generator):
    chosen = torch.rand(env.num_envs, generator=generator) < 0.02
    return torch.where(chosen, randomly(env, state, generator), skilful(env, state))


@pytest.mark.parametrize("ramping", [True, False])
def test_equals_the_package_in_random_play(ramping):
    games = package_games(8, difficulty_ramping=ramping)
    ours = MinAtarSpaceInvaders(8, difficulty_ramping=ramping)
    ours.reset(0)
    np.testing.assert_array_equal(ours.observe(ours.state).numpy(), boards(games))
    seen = play_both(ours, games, 400, randomly)
    assert seen["ended"] > 20
    assert seen["reward"] > 100


def test_equals_the_package_in_skilful_play():
    """Long games: waves, marching to the bottom, the last alien's speed."""
    games = package_games(8)
    ours = MinAtarSpaceInvaders(8)
    ours.reset(0)
    seen = play_both(ours, games, 900, mostly_skilful)
    assert seen["reward"] > 600
    assert seen["waves"] > 0
    assert seen["landed"] > 5


def any_state(env, generator):
    """Return states anywhere: any aliens, shots, bombs and timers."""
    count = env.num_envs

    def integers(low, high, *shape):
        return torch.randint(low, high, (count, *shape), generator=generator)

    aliens = integers(1, 1 << 24) & integers(0, 1 << 24) | (1 << integers(0, 24))
    aliens = torch.where(integers(0, 3) == 0, 1 << integers(0, 24), aliens)
    alive = aliens.unsqueeze(1) >> torch.arange(24) & 1 == 1
    rows, columns = torch.arange(24) // 6, torch.arange(24) % 6
    lowest = torch.where(alive, rows, 0).amax(1)
    first, last = torch.where(alive, columns, 5).amin(1), torch.where(alive, columns, 0).amax(1)
    top = (integers(0, 10)).minimum(9 - lowest)
    left = torch.maximum(torch.minimum(integers(-5, 10), 9 - last), -first)
    newest = integers(-1, 9)
    shot_row = torch.stack((newest, (newest - 5 - integers(0, 3)).clamp_min(-1)), dim=1)
    bomb_in = integers(0, 10)
    values = {
        "cannon": integers(0, 10),
        "reload": (newest - 4).clamp_min(0),
        "bomb_row": torch.where(bomb_in == 0, 10, integers(0, 11)),  # one is dropped only when there is none
        "bomb_column": integers(0, 10),
        "bomb_in": bomb_in,
        "aliens": aliens,
        "left_over": alive.sum(1),
        "top": top,
        "left": left,
        "right": integers(0, 2),
        "move_in": integers(0, 3),
        "waves": integers(0, 7),
        "shot_row": shot_row,
        "shot_column": integers(0, 10, 2),
    }
    state = env.initial_state(torch.empty(count, 0))
    for name, value in values.items():
        part(state, name)[:] = value
    return state


def test_equals_the_package_from_any_state():
    """Two thousand states, one of three at a step of a march: edges, landings, last aliens, new waves."""
    count = 2000
    (game,) = package_games(1)
    generator = torch.Generator().manual_seed(1)
    ours = MinAtarSpaceInvaders(count)
    before = any_state(ours, generator)
    action = torch.randint(4, (count,), generator=generator)
    after, reward, over = ours.transition(before, action, torch.ones(count, 1))
    board = ours.observe(after).numpy()
    for row in range(count):
        put(game, before, row)
        their_reward, their_over = game.act(game.env.minimal_action_set()[int(action[row])])
        assert (float(reward[row]), bool(over[row])) == (their_reward, bool(their_over))
        np.testing.assert_array_equal(board[row], game.state())
        assert int(part(after, "move_in")[row]) == game.env.alien_move_timer
        assert int(part(after, "bomb_in")[row]) == game.env.alien_shot_timer
        assert int(part(after, "reload")[row]) == game.env.shot_timer
        assert int(part(after, "left_over")[row]) == game.env.alien_map.sum()
        assert 12 - int(part(after, "waves")[row]) == game.env.enemy_move_interval
    assert 100 < int(over.sum()) < count / 2
    assert int((part(before, "waves") < part(after, "waves")).sum()) > 5


# By hand --------------------------------------------------------------------------------------------------------------


def start(**changes):
    """Return a game without stickiness, and its state with entries replaced."""
    env = MinAtarSpaceInvaders(1, sticky_action_prob=0.0)
    env.reset(0)
    for name, value in changes.items():
        part(env.state, name)[0] = value
    return env


def act(env, *actions):
    for action in actions:
        step = env.step(torch.tensor([action]))
    return step


def seen(step, name):
    """Return the cells (row, column) of a channel."""
    board = step.final_observation[0, :, :, MinAtarSpaceInvaders.channels.index(name)]
    return [tuple(cell) for cell in board.nonzero().tolist()]


def test_starts_with_24_aliens_that_march_left():
    env = start()
    board = env.observe(env.state)[0]
    block = torch.zeros(10, 10, dtype=torch.bool)
    block[0:4, 2:8] = True
    assert torch.equal(board[:, :, 1], block)
    assert torch.equal(board[:, :, 2], block)
    assert not board[:, :, 3].any()
    assert board[:, :, 0].nonzero().tolist() == [[9, 5]]


def test_marches_every_12_steps_and_turns_one_row_lower_at_the_edge():
    env = start()
    # The timer starts at 12, so that the first move is in the 13th step.
    tops, lefts = [], []
    for _ in range(49):
        part(env.state, "bomb_in")[0] = 9  # no bombs
        act(env, NOOP)
        tops.append(int(part(env.state, "top")))
        lefts.append(int(part(env.state, "left")))
    moved = [step for step in range(1, 49) if (tops[step], lefts[step]) != (tops[step - 1], lefts[step - 1])]
    assert moved == [12, 24, 36, 48]
    assert (tops[12], lefts[12]) == (0, 1)
    assert (tops[24], lefts[24]) == (0, 0)
    assert (tops[36], lefts[36]) == (1, 0)
    assert (tops[48], lefts[48]) == (1, 1)


def test_a_shot_flies_up_and_kills_the_lowest_alien():
    env = start()
    for time in range(5):
        step = act(env, FIRE if time == 0 else NOOP)
        assert seen(step, "friendly_bullet") == [(8 - time, 5)]
        assert step.reward.item() == 0.0
    step = act(env, NOOP)
    assert step.reward.item() == 1.0
    assert seen(step, "friendly_bullet") == []
    assert (3, 5) not in seen(step, "alien")
    assert len(seen(step, "alien")) == 23


def test_fires_every_five_steps_at_most():
    env = start()
    step = act(env, *[FIRE] * 5)
    assert seen(step, "friendly_bullet") == [(4, 5)]
    step = act(env, FIRE)
    assert seen(step, "friendly_bullet") == [(8, 5)]  # the first has killed an alien in this step
    assert step.reward.item() == 1.0


def test_the_nearest_alien_drops_a_bomb_that_kills_after_falling():
    env = start()
    act(env, RIGHT)
    step = act(env, *[NOOP] * 10)
    assert seen(step, "enemy_bullet") == [(3, 6)]
    step = act(env, *[NOOP] * 5)
    assert seen(step, "enemy_bullet") == [(8, 6)]
    assert not step.terminated.item()
    assert act(env, NOOP).terminated.item()


def test_a_bomb_can_be_dodged():
    env = start(bomb_row=8, bomb_column=5)
    step = act(env, LEFT)
    assert seen(step, "enemy_bullet") == [(9, 5)]
    assert not step.terminated.item()
    # In the bottom row it harms no more: it leaves the board first.
    step = act(env, RIGHT)
    assert seen(step, "enemy_bullet") == []
    assert not step.terminated.item()


def test_of_two_nearest_the_left_one_drops_the_bomb():
    env = start(aliens=1 << 0 | 1 << 2, left_over=2, cannon=3, bomb_in=0)
    assert seen(act(env, NOOP), "enemy_bullet") == [(0, 2)]


def test_the_last_alien_moves_in_every_step_and_ends_the_game_from_the_bottom_row():
    env = start(aliens=1, left_over=1, top=9, left=2, cannon=9, move_in=0, bomb_in=9)
    for column in (1, 0):
        step = act(env, NOOP)
        assert seen(step, "alien") == [(9, column)]
        assert not step.terminated.item()
    assert act(env, NOOP).terminated.item()


def test_an_alien_that_reaches_the_cannon_ends_the_game():
    # It is in column 4 before its move and in column 3 after it.
    for cannon, over in ((2, False), (3, True), (4, True), (5, False)):
        env = start(aliens=1, left_over=1, top=9, left=4, cannon=cannon + 1, move_in=0, bomb_in=9)
        assert act(env, LEFT).terminated.item() == over


@pytest.mark.parametrize(("ramping", "interval"), [(True, 11), (False, 12)])
def test_the_next_wave_moves_faster(ramping, interval):
    env = start(aliens=1, left_over=1, top=3, left=5, cannon=5, move_in=4)
    env.difficulty_ramping = ramping
    part(env.state, "shot_row")[0] = torch.tensor([4, -1])
    part(env.state, "shot_column")[0] = 5
    step = act(env, NOOP)
    assert step.reward.item() == 1.0
    assert len(seen(step, "alien")) == 24
    moves = []
    for time in range(4 + interval + 1):
        part(env.state, "bomb_in")[0] = 9
        left = int(part(env.state, "left"))
        act(env, NOOP)
        moves += [time] * (int(part(env.state, "left")) != left)
    assert moves == [3, 3 + interval]


def test_a_sticky_action_repeats_the_one_before():
    env = MinAtarSpaceInvaders(1)
    env.reset(0)
    state, _, _ = env.transition(env.state, torch.tensor([LEFT]), torch.tensor([[0.5]]))
    assert part(state, "cannon").item() == 4
    state, _, _ = env.transition(state, torch.tensor([RIGHT]), torch.tensor([[0.05]]))
    assert part(state, "cannon").item() == 3
    assert state["last_action"].item() == LEFT


# Contract -------------------------------------------------------------------------------------------------------------


def test_keeps_the_contract():
    check_batched_env(MinAtarSpaceInvaders(3), steps=80)


def test_all_six_actions_can_be_offered():
    env = MinAtarSpaceInvaders(2, minimal_actions=False)
    assert env.single_action_space.n == 6
    env.reset(0)
    env.state["last_action"][:] = 5
    env.step(torch.tensor([2, 4]))
    check_forms(env)
    check_refusals(env)


@pytest.mark.filterwarnings("ignore::UserWarning")  # that it is a bad image: it is a board
def test_is_an_environment_of_gymnasium_and_stable_baselines():
    env = gymnasium.make(NAME, render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    check_env_sb3(env)
    assert gymnasium.spec(NAME).max_episode_steps is None


@pytest.mark.parametrize("options", [{"sticky_action_prob": 1.5}, {"sticky_action_prob": -0.1}])
def test_refuses_bad_options(options):
    with pytest.raises(ValueError, match="sticky_action_prob is a probability, from 0 to 1"):
        make(NAME, num_envs=2, **options)


def test_describes_the_march():
    assert "24 aliens marching left" in start().describe(0)
