"""The rules of MinAtar Breakout, Freeway and Asterix, scene by scene, derived by hand."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from gumbelrl.envs import MinAtarAsterix, MinAtarBreakout, MinAtarFreeway
from gumbelrl.envs import minatar_asterix as asterix
from gumbelrl.envs import minatar_freeway as freeway

# Breakout ------------------------------------------------------------------------------------------------------------


def breakout(**state):
    """Return one game that started at the left, its state changed."""
    env = MinAtarBreakout(1, sticky_action_prob=0.0)
    env.reset(0)
    env.state = env.initial_state(torch.tensor([[0.2]]))
    env.state |= {name: torch.tensor([value]) for name, value in state.items()}
    return env


def ball(env):
    """Return y, x, whether it flies down and to the right."""
    flight = int(env.state["flight"])
    return (*divmod(flight // 4, 10), bool(flight & 2), bool(flight & 1))


def test_breakout_starts_at_either_end_of_row_3():
    state = MinAtarBreakout(2).initial_state(torch.tensor([[0.2], [0.8]]))
    assert state["flight"].tolist() == [4 * 30 + 3, 4 * 39 + 2]


@pytest.mark.parametrize(
    ("actions", "lands"),
    [
        ([0] * 6, None),  # paddle in column 4, ball from column 5 to 6
        ([0, 0, 0, 0, 0, 2], (8, 6, False, True)),  # below where it comes from
        ([0, 0, 0, 0, 2, 2], (8, 6, False, False)),  # below where it goes to
        ([0, 0, 0, 2, 2, 2], None),
    ],
)
def test_breakout_paddle_saves_in_two_ways(actions, lands):
    env = breakout()
    for action in actions:
        step = env.step(torch.tensor([action]))
    assert bool(step.terminated) == (lands is None)
    assert ball(env) == (lands or ball(env))
    assert float(step.reward) == 0.0


def test_breakout_last_sight_of_a_lost_ball_is_in_the_bottom_row():
    env = breakout()
    for _ in range(6):
        step = env.step(torch.tensor([0]))
    seen = step.final_observation[0]
    assert seen[..., 1].nonzero().tolist() == [[9, 6]]
    assert seen[..., 2].nonzero().tolist() == [[8, 5]]
    assert seen[..., 0].nonzero().tolist() == [[9, 4]]
    assert seen[..., 3].sum() == 30
    assert step.observation[0, 3, [0, 9], 1].sum() == 1


def test_breakout_breaks_a_brick_and_flies_through_the_next():
    env = breakout(flight=4 * (40 + 5) + 1)  # upwards to the right, to the brick at row 3, column 6
    step = env.step(torch.tensor([0]))
    assert (float(step.reward), ball(env)) == (1.0, (4, 6, True, True))
    assert not step.observation[0, 3, 6, 3]
    assert step.observation[0, ..., 3].sum() == 29
    env = breakout(flight=4 * (40 + 5) + 1, struck=True)
    step = env.step(torch.tensor([0]))
    assert (float(step.reward), ball(env)) == (0.0, (3, 6, False, True))
    assert step.observation[0, ..., 3].sum() == 30
    step = env.step(torch.tensor([0]))  # and on through the next, for each counts as met
    assert (float(step.reward), ball(env)) == (0.0, (2, 7, False, True))


@pytest.mark.parametrize(
    ("start", "after"),
    [
        ((5, 9, True, True), (6, 9, True, False)),
        ((5, 0, False, False), (4, 0, False, True)),
        ((0, 4, False, True), (0, 5, True, True)),
        ((0, 9, False, True), (0, 9, True, False)),
    ],
)
def test_breakout_turns_at_walls(start, after):
    y, x, down, right = start
    env = breakout(flight=4 * (10 * y + x) + 2 * down + right, bricks=0)
    env.step(torch.tensor([0]))
    assert ball(env) == after


def test_breakout_builds_a_cleared_wall_again_when_the_ball_comes_down():
    env = breakout(flight=4 * (70 + 3) + 3, bricks=0)
    assert env.step(torch.tensor([0])).observation[0, ..., 3].sum() == 0
    step = env.step(torch.tensor([0]))
    assert not step.terminated
    assert step.observation[0, ..., 3].nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in range(10)]


# Freeway -------------------------------------------------------------------------------------------------------------


def car(column, speed, wait):
    return (column * 10 + freeway.SPEEDS.index(speed)) * 6 + wait


def road(**cars):
    """Return one game whose cars, but those of `row…=code`, stand far from the chicken for a while."""
    env = MinAtarFreeway(1, sticky_action_prob=0.0)
    env.reset(0)
    env.state["cars"][0, 1:9] = car(0, 5, 5)
    for name, code in cars.items():
        env.state["cars"][0, int(name.removeprefix("row"))] = code
    return env


def chicken(env):
    return int(env.state["chicken"]) // 4


def test_freeway_ends_after_2501_steps_and_92_crossings_at_most():
    """Without cars in the way, always up: 833 moves, the first in the fourth step, and nine a crossing."""
    env = road()
    up, rewards, ends = torch.tensor([1]), [], []
    parked = env.state["cars"].clone()
    for _ in range(2501):
        env.state["cars"] = parked
        step = env.step(up)
        rewards.append(step.reward)
        ends.append(step.terminated)
    crossings = torch.cat(rewards).nonzero()[:, 0]
    assert crossings.tolist() == [27 + 27 * i for i in range(92)]
    assert torch.cat(ends).nonzero()[:, 0].tolist() == [2500]
    assert not step.truncated


def test_freeway_pauses_after_a_move_and_stays_on_the_board():
    env = road()
    rows = []
    for action in (1, 1, 1, 2, 1, 1, 1, 2, 2, 2, 0, 1):  # down at the bottom costs a move too
        env.step(torch.tensor([action]))
        rows.append(chicken(env))
    assert rows == [9, 9, 9, 9, 9, 9, 8, 8, 8, 9, 9, 9]


@pytest.mark.parametrize("speed", freeway.SPEEDS)
def test_freeway_cars_move_every_k_plus_1_steps_and_come_back(speed):
    env = road(row3=car(1 if speed < 0 else 8, speed, 0))
    columns = []
    for _ in range(2 * (abs(speed) + 1) + 1):
        seen = env.step(torch.tensor([0])).observation[0]
        columns.append(int(seen[3, :, 1].nonzero()))
        behind = int(seen[3, :, 1 + abs(speed)].nonzero())
        assert behind == (columns[-1] - (1 if speed > 0 else -1)) % 10
    every = abs(speed) + 1
    assert columns == ([0] * every + [9] * every + [8] if speed < 0 else [9] * every + [0] * every + [1])


@pytest.mark.parametrize(
    ("code", "hit"),
    [
        (car(4, 2, 1), True),  # it stands there
        (car(4, 2, 0), True),  # it is about to leave
        (car(3, 2, 0), True),  # it arrives
        (car(3, 2, 1), False),
        (car(5, -1, 0), True),
        (car(5, 1, 0), False),
    ],
)
def test_freeway_cars_send_the_chicken_to_the_bottom(code, hit):
    env = road(row5=code)
    env.state["chicken"][0] = 4 * 5 + 2
    step = env.step(torch.tensor([0]))
    assert chicken(env) == (9 if hit else 5)
    assert not step.terminated
    assert int(env.state["chicken"]) % 4 == 1  # the pause goes on


def test_freeway_draws_speeds_anew_after_a_crossing_where_the_cars_are():
    env = MinAtarFreeway(5000, sticky_action_prob=0.0)
    env.reset(0)
    columns = torch.arange(8) % 4
    env.state["cars"][:, 1:9] = columns * 60 + 9 * 6 + 3
    env.state["chicken"][:2500] = 4 * 1
    step = env.step(torch.ones(5000, dtype=torch.int64))
    assert torch.equal(step.reward, (torch.arange(5000) < 2500).float())
    assert (env.state["chicken"][:2500] == 4 * 9 + 2).all()
    cars = env.state["cars"][:, 1:9]
    assert (cars[2500:] == columns * 60 + 9 * 6 + 2).all()
    assert (cars[:2500] // 60 == columns).all()
    check_speeds(cars[:2500], waited=1)


def test_freeway_starts_with_ten_speeds_equally_likely():
    env = MinAtarFreeway(2500)
    env.reset(1)
    cars = env.state["cars"][:, 1:9]
    assert (cars // 60 == 0).all()
    check_speeds(cars, waited=0)


def check_speeds(cars, *, waited):
    """Check the speeds of 20,000 cars, each within 5 standard errors of a tenth, and that pairs are independent."""
    speeds = cars // 6 % 10
    wait = torch.tensor(freeway.SPEEDS).abs()[speeds] - waited
    assert torch.equal(cars % 6, wait)
    frequency = torch.bincount(speeds.flatten(), minlength=10) / cars.numel()
    assert (frequency - 0.1).abs().max() < 5 * math.sqrt(0.09 / cars.numel())
    pairs = torch.bincount(speeds[:, 0] * 10 + speeds[:, 1], minlength=100) / len(cars)
    assert (pairs - 0.01).abs().max() < 5.5 * math.sqrt(0.0099 / len(cars))


# Asterix -------------------------------------------------------------------------------------------------------------


def thing(column, *, right, gold):
    return 1 + 4 * column + 2 * right + gold


def field(time=1, player=55, **things):
    """Return one game at a time of its clock (1: nothing appears or moves) with things in rows."""
    env = MinAtarAsterix(1, sticky_action_prob=0.0)
    env.reset(0)
    env.state["time"][0], env.state["player"][0] = time, player
    for name, code in things.items():
        env.state["things"][0, int(name.removeprefix("row"))] = code
    return env


@pytest.mark.parametrize(
    ("action", "time", "code", "reward", "over"),
    [
        (1, 1, thing(4, right=False, gold=True), 1.0, False),  # it walks into it
        (0, 5, thing(4, right=True, gold=True), 1.0, False),  # it is walked into (everything moves at time 5)
        (1, 1, thing(4, right=False, gold=False), 0.0, True),
        (0, 5, thing(6, right=False, gold=False), 0.0, True),
        (3, 5, thing(6, right=False, gold=False), 0.0, True),  # touched before it moves away
        (1, 5, thing(4, right=True, gold=True), 1.0, False),
        (2, 5, thing(4, right=True, gold=False), 0.0, False),  # evaded
        (0, 1, thing(4, right=True, gold=False), 0.0, False),
    ],
)
def test_asterix_touches_before_and_after_things_move(action, time, code, reward, over):
    env = field(time, row5=code)
    step = env.step(torch.tensor([action]))
    assert (float(step.reward), bool(step.terminated)) == (reward, over)
    assert bool(step.final_observation[0, ..., 3].any()) == (code % 2 == 0 and reward == 0)


def test_asterix_sees_things_and_where_they_come_from():
    env = field(1, row1=thing(3, right=True, gold=True), row8=thing(9, right=False, gold=False))
    seen = env.step(torch.tensor([0])).observation[0]
    assert seen.nonzero().tolist() == [[1, 2, 2], [1, 3, 3], [5, 5, 0], [8, 9, 1]]


def test_asterix_things_leave_the_board():
    env = field(5, row1=thing(9, right=True, gold=True), row2=thing(0, right=False, gold=False))
    step = env.step(torch.tensor([0]))
    assert not step.observation[0, ..., 1:].any()
    assert (env.state["things"][0, 1:9] == asterix.EMPTY).all()


@pytest.mark.parametrize(
    ("player", "action", "after"), [(15, 2, 15), (85, 4, 85), (50, 1, 50), (59, 3, 59), (55, 2, 45)]
)
def test_asterix_player_stays_in_rows_1_to_8(player, action, after):
    env = field(player=player)
    env.step(torch.tensor([action]))
    assert int(env.state["player"]) == after


def test_asterix_puts_things_into_empty_rows_equally_often():
    """20,000 games with three rows taken: five rows, two sides, gold one in three, within 5 standard errors."""
    env = MinAtarAsterix(20_000, sticky_action_prob=0.0)
    env.reset(0)
    taken = thing(5, right=True, gold=True)
    env.state["things"][:, [1, 4, 5]] = taken
    noise = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    things = env._spawned(env.state["things"], torch.ones(20_000, dtype=torch.int64), noise)
    new = things - env.state["things"]
    assert ((new > 0).sum(1) == 1).all()
    rows = (new > 0).float().mean(0)
    expected = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 1, 0]) / 5
    assert (rows - expected).abs().max() < 5 * math.sqrt(0.16 / 20_000)
    codes = Counter(new.max(1).values.tolist())
    probabilities = {thing(0, right=True, gold=False): 1 / 3, thing(0, right=True, gold=True): 1 / 6}
    probabilities |= {thing(9, right=False, gold=False): 1 / 3, thing(9, right=False, gold=True): 1 / 6}
    assert set(codes) == set(probabilities)
    for code, probability in probabilities.items():
        assert abs(codes[code] / 20_000 - probability) < 5 * math.sqrt(probability / 20_000)


def test_asterix_puts_nothing_where_all_rows_are_taken():
    env = MinAtarAsterix(3)
    env.reset(0)
    env.state["things"][:, 1:9] = thing(5, right=True, gold=True)
    things = env._spawned(
        env.state["things"], torch.ones(3, dtype=torch.int64), torch.tensor([[0.5, 0.5, 0.999999]] * 3)
    )
    assert torch.equal(things, env.state["things"])


def clock(env, steps):
    """Return the steps, from 0, in which things appear, and in which they move."""
    time, appear, move = 0, [], []
    for step in range(steps):
        appear += [step] * int(env._spawning[time])
        move += [step] * int(env._moving[time])
        time = int(env._tick[time])
    return appear, move


def test_asterix_without_ramping_keeps_its_pace():
    appear, move = clock(MinAtarAsterix(1, difficulty_ramping=False), 500)
    assert appear == list(range(10, 500, 10))
    assert move == list(range(5, 500, 5))


def test_asterix_speeds_up_to_every_step():
    """Things appear every 10 − r steps and move every 5 − r/2, after r times 102 steps; by hand around the first."""
    appear, move = clock(MinAtarAsterix(1), 1500)
    assert appear[8:14] == [90, 100, 110, 119, 128, 137]  # the period begun in step 100 is not cut
    assert move[39:44] == [200, 205, 209, 213, 217]
    assert np.diff(appear).tolist() == sorted(np.diff(appear).tolist(), reverse=True)
    assert set(np.diff(appear).tolist()) == set(range(1, 11))
    assert set(np.diff(move).tolist()) == {1, 2, 3, 4, 5}
    assert appear[-500:] == list(range(1000, 1500))
    assert move[-500:] == list(range(1000, 1500))
