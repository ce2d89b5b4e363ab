"""Blackjack-v1: draw cards without exceeding 21, then see whether the dealer comes nearer.

Equal to gymnasium's own, given the same cards, and so is what is seen: the flattened observation, one-hot.

The deck is infinite: of thirteen cards four count 10, and an ace counts 11 where that does not exceed 21 (usable). The
dealer shows one card of two; the player sticks (0) or hits (1); at more than 21 the player loses 1 at once. Who sticks
sees the dealer draw to 17 or more, and wins or loses 1 by the totals. A natural, 21 with the first two cards,

- by default (`sab`, the rules of Sutton and Barto's example) beats any hand of the dealer's but a natural, for 1;
- with `natural` wins 1.5, if the dealer's total is less than 21 or above;
- with neither is a 21 like any other.

What it separates: the return of a single game is almost all noise (standard deviation 0.95), and reasonable policies
differ by little (random play -0.394, "hit below 17" -0.076), so that the variance of an estimator and the quality of
the baseline decide how many games are needed.

Optimum, by dynamic programming over totals, usable ace and the dealer's card (`blackjack_table`): -0.04311 with `sab`,
-0.02573 with `natural`, -0.04656 with neither. Sticking and hitting differ by as little as 0.0025.

References: Sutton & Barto 2018, example 5.1; Thorp 1962, "Beat the dealer"; gymnasium's `Blackjack-v1`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BLUE, FAINT, GREEN, INK, RED, Canvas
from gumbelrl.envs.native import NativeEnv
from gumbelrl.envs.tabular import Outcome, TransitionTable, solve

STICK, HIT = 0, 1
RANKS = 13
CARDS = 10  # a card is its value less 1, so that 0 is an ace and 9 anything that counts 10
CHANCES = (*[1 / RANKS] * 9, 4 / RANKS)
# A hand is twice its total, plus 1 with a usable ace. No hand has the total 0: that number is a natural.
HANDS, NATURAL, BUST = 64, 0, 44
DEALER_STOPS = 17
# The most cards that the dealer draws. Let s be the total of n cards with aces counted 1. A hand below 17 with s < 12
# has at most 6 cards: with an ace s <= 6, as otherwise it counts 17 or more, and without one s >= 2n. From 12 to 16
# come at most 5 more, which makes 11; the next ends it, and two are dealt. (Six aces, a six, five aces: 10 are drawn.)
DEALER_DRAWS = 10


class Blackjack(NativeEnv[Tensor]):
    """State: the player's hand, the dealer's shown and hidden card, int64, coded as above.

    Observation: one-hot of the player's total (32), the dealer's shown card (11) and whether there is a usable ace (2).

    Args:
        natural: a natural wins 1.5; nothing with `sab`, as in gymnasium.
        sab: the rules of Sutton and Barto; so is gymnasium's `Blackjack-v1` registered.
    """

    num_random = 4
    num_step_random = DEALER_DRAWS

    def __init__(
        self, num_envs: int, *, natural: bool = False, sab: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(num_envs, device=device)
        for name, option in (("natural", natural), ("sab", sab)):
            if not isinstance(option, bool):
                raise ValueError(f"{name} must be True or False, got {option!r}")
        self.natural, self.sab = natural, sab
        self.single_observation_space = spaces.Box(0.0, 1.0, (32 + 11 + 2,), dtype=np.float32)
        self.single_action_space = spaces.Discrete(2)
        hands = _hands()
        self._dealt, self._hit = hands.dealt.flatten().to(self.device), hands.hit.flatten().to(self.device)
        self._dealer_draws_2 = hands.dealer[hands.dealer].flatten().to(self.device)
        self._payoff = _payoff(natural, sab).flatten().to(self.device, torch.float32)
        self._seen = _seen().to(self.device)

    def initial_state(self, noise: Float[Tensor, "env 4"]) -> Int[Tensor, "env 3"]:
        shown, hidden, first, second = _cards(noise).unbind(1)  # gymnasium's order
        hand = self._dealt.index_select(0, torch.add(second, first, alpha=CARDS))
        return torch.stack((hand, shown, hidden), dim=1)

    def transition(
        self, state: Int[Tensor, "env 3"], action: Int[Tensor, " env"], noise: Float[Tensor, "env 10"]
    ) -> tuple[Int[Tensor, "env 3"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        hand, shown, hidden = state.unbind(1)
        cards = _cards(noise)  # for the player or the dealer, who never both draw in a step
        dealer = self._dealt.index_select(0, torch.add(hidden, shown, alpha=CARDS))
        for pair in torch.add(cards[:, 1::2], cards[:, ::2], alpha=CARDS).unbind(1):  # two cards a look-up
            dealer = self._dealer_draws_2.index_select(0, torch.add(pair, dealer, alpha=CARDS**2))
        stick = action == STICK
        hit = self._hit.index_select(0, torch.add(cards[:, 0], hand, alpha=CARDS))
        hand = torch.where(stick, hand, hit)
        terminated = stick | (hand >= BUST)
        reward = self._payoff.index_select(0, torch.add(dealer, hand, alpha=HANDS)) * terminated
        return torch.stack((hand, shown, hidden), dim=1), reward, terminated

    def observe(self, state: Int[Tensor, "env 3"]) -> Float[Tensor, "env 45"]:
        return self._seen.index_select(0, torch.add(state[:, 1], state[:, 0], alpha=CARDS))

    # Optimum --------------------------------------------------------------------------------------------------------

    @property
    def optimal_return(self) -> float:  # type: ignore[override]
        return solve(blackjack_table(self.natural, self.sab), None, self.device)[0]

    def optimal_probs(self) -> Float[Tensor, "env 1 2"]:
        _, policy = solve(blackjack_table(self.natural, self.sab), None, self.device)
        best = policy[0][torch.add(self.state[:, 1], self.state[:, 0], alpha=CARDS)]
        return functional.one_hot(best, 2).float().unsqueeze(1)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> np.ndarray:
        hand, shown, _ = (int(x) for x in self.state[row])
        canvas = Canvas(400, 400, GREEN)
        canvas.text((200, 30), "dealer", FAINT, size=18)
        for left in (95, 215):
            canvas.rectangle(left, 52, left + 90, 178, FAINT, radius=9)
        canvas.rectangle(218, 55, 302, 175, BLUE, radius=7)
        for along in range(5):
            canvas.line([(226, 67 + 24 * along), (294, 67 + 24 * along)], FAINT, width=2)
        name = _card_name(shown)
        canvas.text((140, 115), name, RED if shown == 0 else INK, size=50)
        canvas.text((110, 68), name, RED if shown == 0 else INK, size=16)
        canvas.text((200, 225), "player", FAINT, size=18)
        canvas.rectangle(125, 245, 275, 345, FAINT, radius=9)
        canvas.text((200, 295), str(_total(hand)[0]), RED if hand >= BUST else INK, size=64)
        canvas.text((200, 370), _hand_name(hand), FAINT, size=18)
        return canvas.array()

    def describe(self, row: int) -> str:
        hand, shown, _ = (int(x) for x in self.state[row])
        return f"player {_total(hand)[0]}, {_hand_name(hand)}; dealer shows {_card_name(shown)}"


# The rules as tables ------------------------------------------------------------------------------------------------


class Hands(NamedTuple):
    """What becomes of hands, int64.

    Attributes:
        dealt: the hand of two cards.
        hit: the hand with a card more.
        dealer: the same for the dealer, who keeps hands of 17 and more.
    """

    dealt: Int[Tensor, "card card"]
    hit: Int[Tensor, "hand card"]
    dealer: Int[Tensor, "hand card"]


def _cards(noise: Float[Tensor, "env card"]) -> Int[Tensor, "env card"]:
    return (noise * RANKS).to(torch.int64).clamp_max(CARDS - 1)


def _total(hand: int) -> tuple[int, int]:
    """Return the total and whether there is a usable ace."""
    return (21, 1) if hand == NATURAL else divmod(hand, 2)


def _hand_of(hard: int, has_ace: bool) -> int:
    """Return the hand whose total is `hard` with aces counted 1."""
    return 2 * (hard + 10) + 1 if has_ace and hard <= 11 else 2 * hard


def _with_card(hand: int, card: int) -> int:
    # An ace that is no longer usable counts 1 for good, so that it need not be remembered.
    total, usable = _total(hand)
    return min(_hand_of(total - 10 * usable + card + 1, bool(usable) or card == 0), HANDS - 1)


@lru_cache(maxsize=1)
def _hands() -> Hands:
    dealt = [[_hand_of(a + b + 2, a == 0 or b == 0) for b in range(CARDS)] for a in range(CARDS)]
    dealt[0][9] = dealt[9][0] = NATURAL
    hit = torch.tensor([[_with_card(hand, card) for card in range(CARDS)] for hand in range(HANDS)])
    keeps = torch.tensor([_total(hand)[0] >= DEALER_STOPS for hand in range(HANDS)]).unsqueeze(1)
    return Hands(torch.tensor(dealt), hit, torch.where(keeps, torch.arange(HANDS).unsqueeze(1), hit))


def _payoff(natural: bool, sab: bool) -> Float[Tensor, "hand hand"]:
    """Return what the player's hand wins against the dealer's, float64."""
    totals = torch.tensor([_total(hand)[0] for hand in range(HANDS)])
    scores = torch.where(totals > 21, 0, totals)
    payoff = torch.sign(scores.unsqueeze(1) - scores).double()
    payoff[BUST:] = -1.0  # even if the dealer's is too
    if sab:
        payoff[NATURAL] = 1.0
        payoff[NATURAL, NATURAL] = 0.0
    elif natural:
        payoff[NATURAL] *= torch.where(payoff[NATURAL] > 0, 1.5, 1.0)
    return payoff


def _seen() -> Float[Tensor, "situation 45"]:
    """Return what is seen with each hand against each card of the dealer's."""
    rows = [[*_total(hand), card + 1] for hand in range(HANDS) for card in range(CARDS)]
    total, usable, shown = torch.tensor(rows).unbind(1)
    parts = functional.one_hot(total, 32), functional.one_hot(shown, 11), functional.one_hot(usable, 2)
    return torch.cat(parts, dim=1).float()


@lru_cache(maxsize=4)
def blackjack_table(natural: bool, sab: bool) -> TransitionTable:
    """Return the game as a table; state: ten times the player's hand plus the dealer's shown card.

    The hidden card, which nobody sees before the player sticks, is averaged over, like the dealer's draws.
    """
    hands, chances, payoff = _hands(), torch.tensor(CHANCES, dtype=torch.float64), _payoff(natural, sab)
    draws = functional.one_hot(hands.dealer, HANDS).double().mul(chances.view(-1, 1)).sum(1)
    dealer = functional.one_hot(hands.dealt, HANDS).double().mul(chances.view(-1, 1)).sum(1)  # [shown, hand]
    ends = dealer @ torch.linalg.matrix_power(draws, DEALER_DRAWS)
    amounts = sorted(set(payoff.flatten().tolist()))
    won = torch.stack([(payoff == amount).double() @ ends.T for amount in amounts], dim=-1)  # [hand, shown, amount]
    outcomes: list[list[list[Outcome]]] = []
    for hand in range(HANDS):
        for card in range(CARDS):
            stick = [(p, 0, amount, True) for p, amount in zip(won[hand, card].tolist(), amounts, strict=True)]
            after = hands.hit[hand].tolist()
            bust = [float(each >= BUST) for each in after]
            hit = [
                (p, CARDS * each + card, -over, over > 0) for p, each, over in zip(CHANCES, after, bust, strict=True)
            ]
            outcomes.append([stick, hit])
    start = functional.one_hot(hands.dealt, HANDS).double().mul(torch.outer(chances, chances).unsqueeze(-1)).sum((0, 1))
    return TransitionTable.from_outcomes(outcomes, torch.outer(start, chances).flatten().numpy())


def _card_name(card: int) -> str:
    return "A" if card == 0 else str(card + 1)


def _hand_name(hand: int) -> str:
    if hand == NATURAL:
        return "a natural"
    if hand >= BUST:
        return "bust"
    return "with a usable ace" if hand % 2 else "without a usable ace"
