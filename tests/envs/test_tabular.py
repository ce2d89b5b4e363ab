"""Transition tables, the dynamic programming over them, and what holds for every environment made of one.

A new one joins by a line in `VARIANTS`. Play is seeded and compared at 5 standard errors, which chance exceeds once in
two million tries; a failure is a defect.
"""

import math
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from gumbelrl.envs import (
    Chain,
    CliffWalking,
    DeepSea,
    FrozenLake,
    FrozenLake8x8,
    RiverSwim,
    ShortCorridor,
    TabularEnv,
    Taxi,
    TransitionTable,
    backward_induction,
    check_batched_env,
    policy_values,
    relative_value_iteration,
    value_iteration,
)
from gumbelrl.envs.tabular import solve

# Two states. In the first, waiting pays 1 and going succeeds with probability 1/2; in the second both end it and pay 4.
WAIT_OR_GO = [
    [[(1.0, 0, 1.0, False)], [(0.5, 0, 0.0, False), (0.5, 1, 0.0, False)]],
    [[(1.0, 1, 4.0, True)], [(1.0, 1, 4.0, True)]],
]
# Each of the environments: options, steps that hold a whole episode, the optimum to all the digits that are documented.
VARIANTS = {
    "lake": (FrozenLake, 100, 0.7442),
    "lake, not slippery": (partial(FrozenLake, is_slippery=False), 100, 1.0),
    "lake 8x8": (FrozenLake8x8, 200, 0.9132),
    "taxi": (Taxi, 200, 7.93),
    "taxi, masks": (partial(Taxi, action_masks=True), 200, 7.93),
    "taxi, rain": (partial(Taxi, is_rainy=True), 200, 3.95),
    "taxi, fickle": (partial(Taxi, fickle_passenger=True), 200, 8.38),
    "taxi, both": (partial(Taxi, is_rainy=True, fickle_passenger=True, action_masks=True), 200, 4.58),
    "cliff": (CliffWalking, 13, -13.0),
    "cliff, slippery": (partial(CliffWalking, is_slippery=True), 800, -64.71),
    "river": (RiverSwim, 20, 3.397),
    "sea": (DeepSea, 10, 0.99),
    "sea, not mapped": (partial(DeepSea, size=6, mapping_seed=None), 6, 0.99),
    "chain": (Chain, 1000, 3665.83),
    "corridor": (ShortCorridor, 1000, -11.657),
}
NAMES = (
    "FrozenLake-v1",
    "FrozenLake8x8-v1",
    "Taxi-v4",
    "CliffWalking-v1",
    "CliffWalkingSlippery-v1",
    "RiverSwim-v0",
    "DeepSea-v0",
    "Chain-v0",
    "ShortCorridor-v0",
)


def first_returns(env, steps, seed=0):
    """Return what each environment collects in its first episode by its scripted policy, and whether it has ended."""
    generator = torch.Generator().manual_seed(seed)
    env.reset(seed)
    total, running = torch.zeros(env.num_envs, dtype=torch.float64), torch.ones(env.num_envs, dtype=torch.bool)
    for _ in range(steps):
        step = env.step(torch.multinomial(env.optimal_probs()[:, 0], 1, generator=generator)[:, 0])
        total += step.reward * running
        running &= ~(step.terminated | step.truncated)
    return total, ~running


# Every environment of the family ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_keeps_the_contract(variant):
    factory, _, _ = VARIANTS[variant]
    check_batched_env(factory(3), steps=60, random_steps=3_200)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_optimum_is_the_documented_one_and_the_scripted_policy_attains_it(variant):
    factory, steps, documented = VARIANTS[variant]
    env = factory(300)
    digits = len(str(documented).split(".")[1])
    assert round(env.optimal_return, digits) == documented
    total, ended = first_returns(env, steps)
    assert ended.all()
    error = float(total.std()) / math.sqrt(env.num_envs)
    assert abs(float(total.mean()) - env.optimal_return) <= 5 * error + 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_passes_the_checks_of_gymnasium_and_sb3(name):
    env = gymnasium.make(f"gumbelrl/{name}", render_mode="rgb_array")
    gymnasium_check(env.unwrapped, skip_render_check=False)
    sb3_check(env.unwrapped)


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_table_holds_every_outcome_that_it_is_made_from():
    theirs = gymnasium.make("FrozenLake-v1").unwrapped
    table = TransitionTable.from_outcomes(theirs.P, theirs.initial_state_distrib)
    for state, actions in theirs.P.items():
        for action, outcomes in actions.items():
            for k, outcome in enumerate(outcomes):
                columns = (table.probability, table.next_state, table.reward, table.terminated)
                assert tuple(column[state, action, k].item() for column in columns) == outcome
            assert (table.probability[state, action, len(outcomes) :] == 0).all()
    assert table.initial.tolist() == theirs.initial_state_distrib.tolist()


def test_a_table_from_gymnasium_can_be_played():
    theirs = gymnasium.make("CliffWalking-v1").unwrapped
    table = TransitionTable.from_outcomes(theirs.P, theirs.initial_state_distrib)
    env = TabularEnv(4, table=table)
    total, ended = first_returns(env, 13)
    assert ended.all()
    assert total.tolist() == [-13.0] * 4


@pytest.mark.parametrize(
    ("outcomes", "initial", "words"),
    [
        ([[[(0.9, 0, 0.0, False)]]], [1.0], "must be >= 0 and sum to 1"),
        ([[[(1.5, 0, 0.0, False), (-0.5, 0, 0.0, False)]]], [1.0], "must be >= 0 and sum to 1"),
        ([[[(1.0, 1, 0.0, False)]]], [1.0], "next states must be in 0 … 0"),
        ([[[(1.0, 0, 0.0, False)]]], [0.5], "initial distribution must sum to 1 over 1 states"),
        ([[[(1.0, 0, 0.0, False)]]], [0.5, 0.5], "initial distribution must sum to 1 over 1 states"),
        ([[[(1.0, 0, 0.0, True)]], [[(1.0, 0, 0.0, True)]] * 2], [1.0, 0.0], "same number of actions"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(outcomes, initial, words):
    with pytest.raises(ValueError, match=words):
        TransitionTable.from_outcomes(outcomes, initial)


def test_columns_of_other_shapes_and_states_without_an_action_are_refused():
    table = TransitionTable.from_outcomes(WAIT_OR_GO, [1.0, 0.0])
    with pytest.raises(ValueError, match="reward has the shape"):
        TransitionTable(table.next_state, table.probability, table.reward[:1], table.terminated, table.initial)
    with pytest.raises(ValueError, match="every state needs a valid action"):
        TransitionTable.from_outcomes(WAIT_OR_GO, [1.0, 0.0], valid=torch.tensor([[True, True], [False, False]]))


# Dynamic programming ------------------------------------------------------------------------------------------------


def test_discounted_values_are_those_worked_out_by_hand():
    """With discount d, waiting for ever is worth 1 / (1 - d), and going v = d (v + 4) / 2, so 4 d / (2 - d)."""
    table = TransitionTable.from_outcomes(WAIT_OR_GO, [1.0, 0.0])
    patient, policy = value_iteration(table, discount=0.9)
    torch.testing.assert_close(patient, torch.tensor([10.0, 4.0], dtype=torch.float64), rtol=0, atol=1e-10)
    assert policy.tolist()[0] == 0
    hasty, policy = value_iteration(table, discount=0.5)
    torch.testing.assert_close(hasty, torch.tensor([2.0, 4.0], dtype=torch.float64), rtol=0, atol=1e-10)
    assert policy.tolist()[0] == 0
    other = TransitionTable.from_outcomes([[WAIT_OR_GO[0][1]] * 2, WAIT_OR_GO[1]], [1.0, 0.0])
    values, _ = value_iteration(other, discount=0.9)
    torch.testing.assert_close(values[0].item(), 3.6 / 1.1, rtol=0, atol=1e-10)


def test_backward_induction_equals_an_enumeration_of_all_plans():
    """All maps from (time, state) to actions over 3 steps, evaluated one by one."""
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(2, 2, 2, generator=generator, dtype=torch.float64)
    table = TransitionTable(
        next_state=torch.tensor([0, 1]).expand(2, 2, 2),
        probability=probability / probability.sum(-1, keepdim=True),
        reward=torch.randn(2, 2, 2, generator=generator, dtype=torch.float64),
        terminated=torch.rand(2, 2, 2, generator=generator) < 0.3,
        initial=torch.tensor([1.0, 0.0], dtype=torch.float64),
    )
    best = torch.full((2,), -math.inf, dtype=torch.float64)
    for code in range(2**6):
        plan = torch.tensor([(code >> bit) & 1 for bit in range(6)]).view(3, 2)
        values = torch.zeros(2, dtype=torch.float64)
        for choice in plan.flip(0):
            values = table.action_values(values).gather(1, choice.unsqueeze(1))[:, 0]
        best = torch.maximum(best, values)
    values, policy = backward_induction(table, 3)
    torch.testing.assert_close(values, best, rtol=0, atol=1e-14)
    assert policy.shape == (3, 2)


@pytest.mark.parametrize("variant", ["lake", "lake, not slippery", "lake 8x8", "taxi", "cliff, slippery", "sea"])
def test_the_policy_of_value_iteration_ends_and_attains_its_values(variant):
    """Not so for the first of equal actions: on a lake that is not slippery it walks into a wall for ever."""
    table = VARIANTS[variant][0](1).table
    values, policy = value_iteration(table)
    probs = torch.nn.functional.one_hot(policy, table.num_actions)
    torch.testing.assert_close(policy_values(table, probs), values, rtol=0, atol=1e-9)


def test_value_iteration_that_cannot_converge_is_refused():
    with pytest.raises(ValueError, match="has not converged in 50 sweeps"):
        value_iteration(RiverSwim(1).table, most_sweeps=50)


def test_invalid_actions_are_never_planned():
    table = TransitionTable.from_outcomes(WAIT_OR_GO, [1.0, 0.0], valid=torch.tensor([[False, True], [True, True]]))
    values, policy = value_iteration(table)
    assert policy[0] == 1
    torch.testing.assert_close(values[0].item(), 4.0, rtol=0, atol=1e-9)
    assert (backward_induction(table, 5)[1][:, 0] == 1).all()


def test_policy_values_with_a_horizon_approach_those_without():
    table = FrozenLake(1).table
    probs = torch.full((16, 4), 0.25)
    without = policy_values(table, probs)
    torch.testing.assert_close(policy_values(table, probs, horizon=2_000), without, rtol=0, atol=1e-12)
    assert policy_values(table, probs, horizon=5)[0] < without[0]
    # Random play on the lake reaches the goal in 1.4% of its episodes.
    assert round(float(without[0]), 3) == 0.014


def test_policy_values_of_a_policy_that_never_ends_ask_for_a_horizon():
    always_left = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    with pytest.raises(ValueError, match="give a horizon or a discount"):
        policy_values(ShortCorridor(1).table, always_left)
    assert policy_values(ShortCorridor(1).table, always_left, horizon=7)[0] == -7


def test_the_gain_of_a_periodic_chain_is_found():
    """Two states in turn, of which one pays 1: half a step."""
    outcomes = [[[(1.0, 1, 1.0, False)]], [[(1.0, 0, 0.0, False)]]]
    gain, _ = relative_value_iteration(TransitionTable.from_outcomes(outcomes, [1.0, 0.0]))
    assert abs(gain - 0.5) < 1e-11


def test_the_gain_of_a_task_that_ends_is_refused():
    with pytest.raises(ValueError, match="episodes of this one terminate"):
        relative_value_iteration(FrozenLake(1).table)


# Playing ------------------------------------------------------------------------------------------------------------


def test_outcomes_have_the_frequencies_of_the_table():
    """200,000 draws of one state and action, start included."""
    probability = [0.1, 0.25, 0.0, 0.65]
    row = [(p, k, float(k), k == 3) for k, p in enumerate(probability)]
    table = TransitionTable.from_outcomes([[row]] * 4, [0.0, 0.3, 0.0, 0.7])
    env, count = TabularEnv(200_000, table=table), 200_000
    start = torch.bincount(env.reset(0), minlength=4) / count
    step = env.step(torch.zeros(count, dtype=torch.int64))
    seen = torch.bincount(step.final_observation, minlength=4) / count
    assert torch.equal(step.reward, step.final_observation.float())
    assert torch.equal(step.terminated, step.final_observation == 3)
    for frequency, expected in ((start, [0.0, 0.3, 0.0, 0.7]), (seen, probability)):
        expected = torch.tensor(expected)
        assert ((frequency - expected).abs() <= 5 * (expected * (1 - expected) / count).sqrt()).all()


def test_nothing_is_drawn_where_nothing_is_random():
    sure = TabularEnv(2, table=FrozenLake(1, success_rate=1.0).table)
    assert (sure.num_random, sure.num_step_random) == (0, 0)
    lake, taxi = FrozenLake(2), Taxi(2)
    assert (lake.num_random, lake.num_step_random) == (0, 1)
    assert (taxi.num_random, taxi.num_step_random) == (1, 0)
    sure.reset(0)
    assert sure.step(torch.tensor([2, 1])).observation.tolist() == [1, 4]


def test_tables_and_solutions_are_shared():
    one, other = Taxi(2), Taxi(5)
    assert one.table is other.table
    assert solve(one.table, 200, one.device) is solve(other.table, 200, other.device)
    one.max_episode_steps = 3  # the optimum follows the time limit
    assert one.optimal_return < other.optimal_return


def test_a_plain_table_can_be_drawn_and_described():
    env = TabularEnv(2, table=TransitionTable.from_outcomes(WAIT_OR_GO, [1.0, 0.0]))
    env.max_episode_steps = 10
    check_batched_env(env, steps=30, random_steps=640)
    env.reset(0)
    assert env.describe(0) == "state 0 of 2, after 0 steps"
    assert np.unique(env.draw(0).reshape(-1, 3), axis=0).shape[0] == 3
