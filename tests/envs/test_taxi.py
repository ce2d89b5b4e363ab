"""Taxi against gymnasium's: tables, masks, play from every state with the same random numbers, and the optimum."""

import itertools
import time
from collections import deque

import gymnasium
import numpy as np
import pytest
import torch

from gumbelrl.envs import Taxi, TransitionTable, make, policy_values
from gumbelrl.envs.taxi import decode, encode, taxi_table

RAIN = [{}, {"is_rainy": True}, {"is_rainy": True, "rainy_probability": 0.6}]
FICKLE = [{"fickle_passenger": True}, {"fickle_passenger": True, "fickle_probability": 1.0, "is_rainy": True}]
COLUMNS = ("next_state", "probability", "reward", "terminated")


class Dice:
    """Gives gymnasium numbers and choices of ours for random ones."""

    number = 0.0
    index = 0

    def random(self):
        return self.number

    def choice(self, options):
        return options[self.index]


@pytest.mark.parametrize("options", RAIN, ids=str)
def test_the_table_equals_gymnasiums(options):
    theirs = gymnasium.make("Taxi-v4", **options).unwrapped
    table = Taxi(1, **options).table
    expected = TransitionTable.from_outcomes(theirs.P, theirs.initial_state_distrib)
    for column in (*COLUMNS, "initial"):
        assert torch.equal(getattr(table, column), getattr(expected, column)), column


@pytest.mark.parametrize("options", FICKLE, ids=str)
def test_with_the_destination_settled_the_table_of_a_fickle_passenger_is_the_other(options):
    table = Taxi(1, **options).table
    plain = Taxi(1, is_rainy=options.get("is_rainy", False)).table
    possible = plain.probability > 0
    settled = (column[:500].unflatten(2, (-1, 4)) for column in (table.probability, table.next_state, table.reward))
    probability, next_state, reward = settled
    assert torch.equal(probability[..., 0], plain.probability)
    assert (probability[..., 1:] == 0).all()
    assert torch.equal(next_state[..., 0][possible], plain.next_state[possible])
    assert torch.equal(reward[..., 0], plain.reward)


@pytest.mark.parametrize(("options", "states"), [(FICKLE[0], range(500)), (FICKLE[1], range(0, 500, 3))], ids=str)
def test_an_open_destination_has_the_distribution_of_gymnasiums_secret_coin(options, states):
    """From each state and action: (1 - f) · what gymnasium does without its coin + f · what it does with it.

    Its three choices of another destination are equally likely; its rain is run through by numbers in the middle of
    each outcome. The state is the observation, and 500 more while the destination is open.
    """
    theirs, table = gymnasium.make("Taxi-v4", **options).unwrapped, Taxi(1, **options).table
    theirs.reset(seed=0)
    dice = theirs.np_random = Dice()
    change = theirs.fickle_probability
    expected = torch.zeros(500, 6, 1000, dtype=torch.float64)
    ours = expected.scatter_add(2, table.next_state[500:], table.probability[500:])
    for state, action in itertools.product(states, range(6)):
        start = 0.0
        for chance, *_ in theirs.P[state][action]:
            dice.number, start = start + chance / 2, start + chance
            for coin, index in itertools.product((False, True), range(3)):
                dice.index, theirs.s, theirs.fickle_step = index, state, coin
                observation, *_ = theirs.step(action)
                moved = decode(state)[2] == 4 and decode(observation)[:2] != decode(state)[:2]
                weight = chance * (change if coin else 1 - change) / 3
                expected[state, action, observation + 500 * (not moved)] += weight
    torch.testing.assert_close(ours[states], expected[states], rtol=0, atol=1e-12)
    assert torch.equal(table.initial[500:], Taxi(1).table.initial)


def test_play_equals_gymnasiums_from_every_state():
    theirs = gymnasium.make("Taxi-v4").unwrapped
    theirs.reset(seed=0)
    states, actions = (grid.reshape(-1) for grid in np.meshgrid(range(500), range(6)))
    ours = Taxi(len(states))
    ours.reset(0)
    ours.state = torch.tensor(states)
    step = ours.step(torch.tensor(actions))
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        theirs.s = int(state)
        observation, reward, terminated, _, _ = theirs.step(int(action))
        assert step.final_observation[row] == observation
        assert step.reward[row] == reward
        assert bool(step.terminated[row]) == terminated


def test_observations_of_a_fickle_passenger_do_not_tell():
    env = Taxi(64, fickle_passenger=True)
    assert env.single_observation_space.n == 500
    assert (env.reset(0) < 500).all()
    assert (env.state >= 500).all()


def test_masks_are_gymnasiums_where_asked_for_and_absent_otherwise():
    theirs = gymnasium.make("Taxi-v4").unwrapped
    env = Taxi(500, action_masks=True)
    mask = env.action_mask(torch.arange(500))
    assert mask.tolist() == [theirs.action_mask(state).astype(bool).tolist() for state in range(500)]
    plain = Taxi(2)
    plain.reset(0)
    assert plain.info == {}


def test_states_are_encoded_as_in_gymnasium():
    theirs = gymnasium.make("Taxi-v4").unwrapped
    for observation in range(500):
        assert decode(observation) == theirs.decode(observation)
        assert encode(*decode(observation)) == observation


def test_the_optimum_is_that_of_shortest_paths():
    """The fewest actions to an end, by breadth-first search from each start over gymnasium's table: 21 less those."""
    theirs = gymnasium.make("Taxi-v4").unwrapped
    returns = []
    for start in np.flatnonzero(theirs.initial_state_distrib):
        distance, queue = {int(start): 0}, deque([int(start)])
        actions = None
        while actions is None:
            state = queue.popleft()
            for ((_, after, _, ends),) in theirs.P[state].values():
                if ends:
                    actions = distance[state] + 1
                elif after not in distance:
                    distance[after] = distance[state] + 1
                    queue.append(after)
        returns.append(21 - actions)
    assert len(returns) == 300
    assert abs(np.mean(returns) - 7.93) < 1e-12
    assert abs(Taxi(1).optimal_return - 7.93) < 1e-12


def test_what_random_play_returns():
    table, masked = Taxi(1).table, Taxi(1, action_masks=True).table
    anything = policy_values(table, torch.full((500, 6), 1 / 6), horizon=200)
    changing = policy_values(table, masked.valid / masked.valid.sum(1, keepdim=True), horizon=200)
    assert round(float(anything @ table.initial)) == -771
    assert round(float(changing @ table.initial)) == -186


def test_another_environment_costs_no_other_table():
    """The best of five, with the table cached, is well under 50 ms."""
    Taxi(1024)
    hits, seconds = taxi_table.cache_info().hits, []
    for _ in range(5):
        start = time.perf_counter()
        Taxi(1024)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    assert taxi_table.cache_info().hits == hits + 5


def test_the_twin_is_used_for_gymnasiums_name():
    assert isinstance(make("Taxi-v4", num_envs=2, is_rainy=True), Taxi)
    assert gymnasium.make("gumbelrl/Taxi-v4").spec.max_episode_steps == gymnasium.spec("Taxi-v4").max_episode_steps


@pytest.mark.parametrize("name", ["rainy_probability", "fickle_probability"])
def test_bad_options_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be from 0 to 1, got -0.1"):
        Taxi(1, **{name: -0.1})


def test_the_text_shows_the_map():
    env = Taxi(1)
    env.reset(0)
    env.state = torch.tensor([encode(2, 2, 0, 3)])
    assert env.describe(0).splitlines() == [
        "|R: | : :G|",
        "| : | : : |",
        "| : :T: : |",
        "| | : | : |",
        "|Y| : |B: |",
        "passenger at R, to B",
    ]
