"""The native Blackjack against gymnasium's own with the same cards, and against a recursion over hands of cards."""

import warnings
from fractions import Fraction
from functools import cache

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.toy_text import blackjack as theirs
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from gumbelrl.envs import Blackjack, GymnasiumEnv, check_batched_env, make
from gumbelrl.envs.blackjack import DEALER_DRAWS

OPTIONS = [{"natural": False, "sab": True}, {"natural": False, "sab": False}, {"natural": True, "sab": False}]
BOTH = {"natural": True, "sab": True}


def cards_of(noise):
    """Return the cards that uniform numbers deal, by gymnasium's deck."""
    return [theirs.deck[int(np.float32(each) * np.float32(13))] for each in noise]


@pytest.mark.parametrize("options", [*OPTIONS, BOTH])
@pytest.mark.parametrize("stop", [12, 17, 20, None])
def test_equals_gymnasium_given_the_same_cards(options, stop, monkeypatch):
    """What is seen, rewards and ends of 250 games that stick from `stop` on, or at random."""
    coming = []
    monkeypatch.setattr(theirs, "draw_card", lambda np_random: coming.pop(0))
    other = gymnasium.make("Blackjack-v1", **options).unwrapped
    env = Blackjack(1, **options)
    generator = torch.Generator().manual_seed(0)
    finals = []
    for _ in range(250):
        noise = torch.rand(1, 4, generator=generator)
        coming[:] = cards_of(noise[0])
        seen, _ = other.reset(seed=0)
        state, terminated = env.initial_state(noise), False
        while not terminated:
            assert env.observe(state)[0].tolist() == spaces.flatten(other.observation_space, seen).tolist()
            at_random = int(torch.randint(2, (), generator=generator))
            action = at_random if stop is None else int(seen[0] < stop)
            noise = torch.rand(1, DEALER_DRAWS, generator=generator)
            coming[:] = cards_of(noise[0])
            seen, reward, terminated, _, _ = other.step(action)
            state, our_reward, ended = env.transition(state, torch.tensor([action]), noise)
            assert (float(our_reward), bool(ended)) == (reward, terminated)
        assert env.observe(state)[0].tolist() == spaces.flatten(other.observation_space, seen).tolist()
        finals.append(reward)
    assert {-1.0, 1.0} <= set(finals)


@pytest.mark.parametrize("options", [*OPTIONS, BOTH])
def test_naturals_pay_as_in_gymnasium(options, monkeypatch):
    """The player's natural and a 21 of three cards against a natural, a 21 of three cards, 17 and a bust."""
    dealers = {(1, 10): [], (5, 6): [10], (10, 7): [], (10, 6): [10]}
    numbers = {card: torch.tensor((theirs.deck.index(card) + 0.5) / 13) for card in range(1, 11)}
    coming = []
    monkeypatch.setattr(theirs, "draw_card", lambda np_random: coming.pop(0))
    other, env = gymnasium.make("Blackjack-v1", **options).unwrapped, Blackjack(1, **options)
    rewards = []
    for dealer, drawn in dealers.items():
        for player, hits in {(10, 1): [], (6, 5): [10]}.items():
            coming[:] = [*dealer, *player]
            other.reset(seed=0)
            state = env.initial_state(torch.stack([numbers[card] for card in (*dealer, *player)])[None])
            for action, cards in (*((1, [card]) for card in hits), (0, drawn)):
                coming[:] = cards
                _, reward, _, _, _ = other.step(action)
                noise = torch.stack([numbers[card] for card in [*cards, *[1] * 10][:10]])[None]
                state, our_reward, _ = env.transition(state, torch.tensor([action]), noise)
                assert float(our_reward) == reward
            rewards.append(reward)
    against_natural, against_21 = rewards[0], rewards[2]
    assert against_natural == 0.0
    assert against_21 == float(options["sab"])
    assert max(rewards) == (1.5 if options["natural"] and not options["sab"] else 1.0)


def test_ten_cards_are_enough_for_the_dealer_and_nine_are_not():
    """By all hands, with gymnasium's own count: which totals, and whether there is an ace, go on after n cards."""
    going_on = {(a + b, 1 in (a, b)) for a in range(1, 11) for b in range(1, 11)}
    for drawn in range(DEALER_DRAWS + 1):
        going_on = {(hard, ace) for hard, ace in going_on if hard + 10 * (ace and hard <= 11) < 17}
        assert bool(going_on) == (drawn < DEALER_DRAWS)
        going_on = {(hard + card, ace or card == 1) for hard, ace in going_on for card in range(1, 11)}


@cache
def dealer_ends(hand):
    """Return the chances of the dealer's final totals (0 if bust), exactly; hands are sorted cards."""
    if theirs.sum_hand(hand) >= 17:
        return {theirs.score(hand): Fraction(1)}
    total = {}
    for card in theirs.deck:
        for end, chance in dealer_ends(tuple(sorted((*hand, card)))).items():
            total[end] = total.get(end, 0) + chance / 13
    return total


def stick_value(hand, shown, natural, sab):
    value = Fraction(0)
    for hidden in theirs.deck:
        for end, chance in dealer_ends(tuple(sorted((shown, hidden)))).items():
            reward = Fraction(int(theirs.cmp(theirs.score(hand), end)))
            if theirs.is_natural(hand) and sab:
                reward = Fraction(int(not theirs.is_natural([shown, hidden])))
            elif theirs.is_natural(hand) and natural and reward == 1:
                reward = Fraction(3, 2)
            value += chance * reward / 13
    return value


def best_return(natural, sab):
    """Return the value of the game in exact fractions, by recursion over the player's cards."""

    @cache
    def value(hard, ace, shown, fresh):
        total = hard + 10 * (ace and hard <= 11)
        hand = [1, 10] if fresh else [total]  # a hand of one card that counts the total scores alike
        hit = sum(
            -1 if hard + card > 21 else value(hard + card, ace or card == 1, shown, False) for card in theirs.deck
        )
        return max(stick_value(tuple(hand), shown, natural, sab), Fraction(hit, 13))

    games = [
        value(a + b, 1 in (a, b), shown, theirs.is_natural([a, b]))
        for a in theirs.deck
        for b in theirs.deck
        for shown in theirs.deck
    ]
    return float(sum(games) / len(games))


@pytest.mark.parametrize("options", OPTIONS)
def test_the_optimal_return_is_exact(options):
    assert Blackjack(1, **options).optimal_return == pytest.approx(best_return(**options), abs=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_scripted_policy_attains_the_optimum(options):
    """About 130,000 games; 5 standard errors, so that it fails for one seed in two million."""
    env = Blackjack(4096, **options)
    env.reset(0)
    rewards = []
    for _ in range(50):
        step = env.step(env.optimal_probs()[:, 0].argmax(1))
        rewards.append(step.reward[step.terminated])
    rewards = torch.cat(rewards).double()
    error = float(rewards.std()) / len(rewards) ** 0.5
    assert error < 0.003
    assert abs(float(rewards.mean()) - env.optimal_return) < 5 * error


def test_the_policy_is_that_of_what_is_seen():
    """A natural and another soft 21 look the same; so must be what is done, and it is to stick."""
    env = Blackjack(20)
    env.reset(0)
    natural, soft_21 = torch.zeros(10, dtype=torch.int64), torch.full((10,), 43)
    env.state = torch.stack((torch.cat((natural, soft_21)), torch.arange(10).repeat(2), torch.zeros(20).long()), dim=1)
    assert torch.equal(env.observe(env.state)[:10], env.observe(env.state)[10:])
    assert env.optimal_probs()[:, 0, 0].tolist() == [1.0] * 20


@pytest.mark.parametrize("options", [*OPTIONS, BOTH])
def test_keeps_the_contract(options):
    check_batched_env(Blackjack(2, **options), steps=40, random_steps=3_000)


def test_cards_are_dealt_as_often_as_they_should():
    """Dealer's cards of 40,000 games; chi squared with 9 degrees of freedom, above 35 for one seed in 16,000."""
    env = Blackjack(40_000)
    env.reset(0)
    counts = torch.bincount(env.state[:, 1], minlength=10).double()
    expected = 40_000 * torch.tensor([1.0] * 9 + [4.0], dtype=torch.float64) / 13
    assert float(((counts - expected) ** 2 / expected).sum()) < 35


def test_other_libraries_accept_it():
    env = gymnasium.make("gumbelrl/Blackjack-v1", render_mode="rgb_array").unwrapped
    check_env(env, skip_render_check=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        check_env_sb3(env)


def test_looks_like_the_twin():
    ours, adapter = make("Blackjack-v1", num_envs=2), GymnasiumEnv("Blackjack-v1", 2)
    assert isinstance(ours, Blackjack)
    registered = gymnasium.spec("Blackjack-v1").kwargs
    assert {"natural": ours.natural, "sab": ours.sab} == registered
    assert ours.single_observation_space.shape == adapter.single_observation_space.shape
    assert ours.single_action_space == adapter.single_action_space
    one, other = ours.reset(0), adapter.reset(0)
    assert (one.dtype, one.shape, one.sum(1).tolist()) == (other.dtype, other.shape, other.sum(1).tolist())


@pytest.mark.parametrize("name", ["natural", "sab"])
def test_refuses_bad_options(name):
    with pytest.raises(ValueError, match=f"{name} must be True or False, got 'yes'"):
        Blackjack(1, **{name: "yes"})
