"""Buttons: the rules written again, masks, blindness of single rows, and the optimum by a second enumeration."""

import itertools
import warnings
from functools import cache

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from gumbelrl.envs import MultiButton, check_batched_env, random_actions

NAME = "gumbelrl/MultiButton-v0"
VARIANTS = [
    {},
    {"num_rows": 2, "num_buttons": 3, "num_presses": 2},
    {"num_rows": 2, "num_buttons": 4, "num_presses": 3},
    {"num_rows": 3, "num_buttons": 3, "num_presses": 1},
    {"num_rows": 6, "num_buttons": 2, "num_presses": 1},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_keeps_the_contract(options):
    check_batched_env(MultiButton(3, **options), steps=30, random_steps=1000)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_the_rules_written_again(options):
    env = MultiButton(5, **options)
    env.reset(0)
    n, rows = env.num_buttons, env.num_rows
    generator = torch.Generator().manual_seed(0)
    down = [set() for _ in range(5)]
    targets = env.observe(env.state)[:, :n].argmax(1).tolist()
    for time in range(40):
        action = random_actions(env, generator)
        step = env.step(action)
        for row in range(5):
            pressed = action[row].tolist()
            assert step.reward[row] == float(sum(pressed) % n == targets[row])
            down[row] |= set(enumerate(pressed))
            up = [float((line, number) not in down[row]) for line in range(rows) for number in range(n)]
            assert step.final_observation[row, n:].tolist() == up
            assert step.info["final_action_mask"][row].tolist() == [bool(each) for each in up]
            assert step.terminated[row] == ((time + 1) % env.num_presses == 0)
        targets = step.observation[:, :n].argmax(1).tolist()
        down = [set() if ended else held for held, ended in zip(down, step.terminated.tolist(), strict=True)]


def test_a_button_that_is_down_lights_nothing():
    env = MultiButton(4, num_rows=2)
    env.reset(0)
    env.state[:, 0] = 0b1  # button 0 of row 0
    env.state[:, 1] = torch.arange(4)
    assert not env.step(torch.stack((torch.zeros(4, dtype=torch.int64), torch.arange(4)), 1)).reward.any()


def test_targets_are_uniform():
    """Within 5 standard errors over 30,000, at the start and later."""
    env = MultiButton(30_000, num_rows=2, num_buttons=3, num_presses=2)
    env.reset(0)
    for _ in range(2):
        shares = torch.bincount(env.state[:, 1], minlength=3) / 30_000
        torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=5 * (2 / 9 / 30_000) ** 0.5)
        env.step(random_actions(env, torch.Generator().manual_seed(0)))


def test_single_rows_tell_nothing_at_the_start():
    """The mean reward given the choices of all rows but one is 1 / n, whatever they are."""
    presses = torch.tensor(list(itertools.product(range(4), repeat=3)))
    for target in range(4):
        env = MultiButton(64)
        env.reset(0)
        env.state[:, 1] = target
        reward = env.step(presses).reward.view(4, 4, 4)
        for others in range(3):
            assert torch.equal(reward.mean(others), torch.full((4, 4), 0.25))


def optimum(rows, n, presses):
    """Return the optimal return by recursion over tuples of remaining buttons."""

    @cache
    def value(remaining, left):
        if left == 0:
            return 0.0
        best = []
        for target in range(n):
            options = []
            for choice in itertools.product(*remaining):
                following = tuple(tuple(b for b in row if b != c) for row, c in zip(remaining, choice, strict=True))
                options.append(float(sum(choice) % n == target) + value(following, left - 1))
            best.append(max(options))
        return sum(best) / n

    return value((tuple(range(n)),) * rows, presses)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_optimum_by_a_second_enumeration(options):
    env = MultiButton(1, **options)
    assert env.optimal_return == pytest.approx(optimum(env.num_rows, env.num_buttons, env.num_presses), abs=1e-12)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_scripted_policy_is_valid_and_attains_the_optimum(options):
    """Within 5 standard errors of 4,000 episodes; exactly where the lamp can always be lit."""
    env = MultiButton(4000, **options)
    env.reset(0)
    returns = torch.zeros(4000)
    for _ in range(env.num_presses):
        probs = env.optimal_probs()
        assert not (probs.flatten(1).bool() & ~env.info["action_mask"]).any()
        action = probs.argmax(-1)
        env.check_actions(action)
        returns += env.step(action).reward
    spread = float(returns.std())
    assert abs(float(returns.mean()) - env.optimal_return) <= 5 * spread / 4000**0.5


def test_documented_returns_of_the_default():
    """Random valid play .75, any press that lights 2.982 and the optimum 3: by induction, and random play is simple."""
    env = MultiButton(1)
    assert env.optimal_return == 3.0
    _, bits, lights = env._joint
    sets = torch.arange(1 << 12).unsqueeze(1)
    possible, following = sets & bits == 0, sets | bits
    greedy = torch.zeros(1 << 12, dtype=torch.float64)
    for _ in range(3):
        by_target = []
        for row in lights:
            lighting = possible & row
            weights = torch.where(lighting.any(1, keepdim=True), lighting, possible).double()
            weights /= weights.sum(1, keepdim=True).clamp_min(1)
            by_target.append((weights * (greedy[following] + row.double())).sum(1))
        greedy = torch.stack(by_target).mean(0)
    assert greedy[0].item() == pytest.approx(2.982, abs=5e-4)


def test_other_libraries_accept_it():
    """Gymnasium's and SB3's checks know no masks: what they draw is taken as the rules say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in (lambda env: check_gymnasium(env, skip_render_check=False), check_sb3):
            env = gymnasium.make(NAME).unwrapped
            check(env)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_rows": 1}, "at least 2 rows"),
        ({"num_buttons": 1}, "at least 2 rows of at least 2"),
        ({"num_rows": 4, "num_buttons": 4}, "12 in all"),
        ({"num_presses": 4}, "from 1 to 3"),
        ({"num_presses": 0}, "from 1 to 3"),
    ],
)
def test_refuses_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        MultiButton(1, **options)
