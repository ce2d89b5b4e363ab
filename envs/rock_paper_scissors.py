"""Rock, paper, scissors, many rounds an episode, against one of two opponents; what it separates is mixing.

The payoff of a round is 1 for a win, 0 for a draw, −1 for a loss. Observations are the constant 1: a policy without
memory is one distribution p, and it cannot predict the opponent from what it sees.

`mixing` plays a fixed distribution q in every round. The best reply is a pure action, and the optimal return
num_rounds · max_a (A q)_a, with A the payoffs.

`best-responding` is fictitious play (Brown 1951): it plays the best response to the frequencies of the agent's actions
so far in the episode, equals broken at random, so a random action in the first round. For a policy p without memory:

- A uniform p gets exactly 0 in every round, since every action of the opponent is then worth 0.
- Proof that nothing else does as well in rounds 1 and 2: the first is worth 0 for any p; in the second the opponent
  beats an action drawn from p, which is worth Σ_a p_a p_{a−1} − Σ_a p_a² = −½ Σ_a (p_a − p_{a−1})² < 0 for p not
  uniform.
- Proof in the limit: the frequencies converge to p, and the reward of a round to min_b (p' A)_b = −exploitability(p).
- In between there is no proof here. The expected reward of each of the rounds 3 to 100, enumerated exactly over the
  multinomial of the counts on a grid of 496 policies (steps of 1/30), is at most −1.3 ‖p − uniform‖²; an episode of 100
  rounds is at most −148 ‖p − uniform‖².

So the optimum of policies without memory is 0, at the uniform distribution only; whatever collapses to one action loses
every round from the second on. An agent that remembers its own actions is another matter: it can predict the opponent
and win nearly every round, and `optimal_return` does not speak of it.

References: Brown 1951, "Iterative solution of games by fictitious play"; von Neumann 1928 for the value 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gumbelrl.envs.drawing import BLUE, FAINT, INK, ORANGE, Canvas, Colour, Point
from gumbelrl.envs.native import NativeEnv

NAMES = ("rock", "paper", "scissors")
PAYOFFS = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))  # of the agent: row its action, column the opponent's
OPPONENTS = ("mixing", "best-responding")
BIASED = (0.5, 0.25, 0.25)

# The state's columns: how often the agent played each action, its last one, the opponent's last one, the score.
COUNTS, OURS, THEIRS, SCORE = slice(0, 3), 3, 4, 5


class RockPaperScissors(NativeEnv[Tensor]):
    """Actions: rock (0), paper (1), scissors (2). The observation is the constant 1.

    Args:
        opponent: `mixing` or `best-responding`.
        opponent_probs: of the mixing opponent; half rock, a quarter each of paper and scissors by default.
        num_rounds: of an episode.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        opponent: str = "best-responding",
        opponent_probs: Sequence[float] | None = None,
        num_rounds: int = 100,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        if opponent not in OPPONENTS:
            raise ValueError(f"the opponent is one of {', '.join(OPPONENTS)}, got {opponent!r}")
        if opponent_probs is not None and opponent != "mixing":
            raise ValueError(f"opponent_probs belong to the opponent 'mixing', not to {opponent!r}")
        if num_rounds < 1:
            raise ValueError(f"num_rounds must be at least 1, got {num_rounds}")
        self.opponent, self.num_rounds = opponent, num_rounds
        self.opponent_probs = _checked(BIASED if opponent_probs is None else opponent_probs)
        self.num_step_random = 1 if opponent == "mixing" else 3
        self.single_observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
        self.single_action_space = spaces.Discrete(3)
        payoffs = torch.tensor(PAYOFFS, device=self.device)
        self._one = torch.ones(num_envs, 1, device=self.device)
        self._payoffs = payoffs.flatten()
        self._cumulative = self.opponent_probs.cumsum(0)[:2].float().to(self.device)
        # What a state adds for each pair of actions; the last ones are replaced, hence `_kept`.
        pairs = [[float(ours == a) for a in range(3)] + [ours, theirs, 0] for ours in range(3) for theirs in range(3)]
        self._added = torch.tensor(pairs, dtype=torch.int32, device=self.device)
        self._added[:, SCORE] = self._payoffs.to(torch.int32)
        self._kept = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.int32, device=self.device)
        self._start = torch.tensor([[0, 0, 0, -1, -1, 0]], dtype=torch.int32, device=self.device).repeat(num_envs, 1)
        values = payoffs.double().cpu() @ self.opponent_probs
        if opponent == "mixing":
            best = (values > values.max() - 1e-9).float()
            self.optimal_return, optimal = num_rounds * float(values.max()), best / best.sum()
        else:
            self.optimal_return, optimal = 0.0, torch.full((3,), 1 / 3)
        self._optimal = optimal.to(self.device).expand(num_envs, 1, 3)

    @staticmethod
    def exploitability(probs: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Return what a best response wins a round against a policy: 0 for the uniform one, up to 1.

        The environment sees actions only, so report it from the policy's probabilities.
        """
        following, before = probs.roll(-1, -1), probs.roll(1, -1)
        return (before - following).max(-1).values

    def initial_state(self, noise: Tensor) -> Int[Tensor, "env 6"]:
        return self._start.clone()

    def transition(
        self, state: Int[Tensor, "env 6"], action: Int[Tensor, " env"], noise: Float[Tensor, "env random"]
    ) -> tuple[Int[Tensor, "env 6"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        pair = action * 3 + self._reply(state[:, COUNTS], noise)
        state = state * self._kept + self._added[pair]
        return state, self._payoffs[pair], state[:, COUNTS].sum(1) >= self.num_rounds

    def _reply(self, counts: Int[Tensor, "env 3"], noise: Float[Tensor, "env random"]) -> Int[Tensor, " env"]:
        """Return the opponent's action."""
        if self.opponent == "mixing":
            return (noise > self._cumulative).sum(1)
        wins = counts.roll(1, 1) - counts.roll(-1, 1)  # of each reply, against the past
        return (wins + noise).argmax(1)  # wins are whole numbers: the noise only breaks ties, uniformly

    def observe(self, state: Int[Tensor, "env 6"]) -> Float[Tensor, "env 1"]:
        return self._one.clone()

    def optimal_probs(self) -> Float[Tensor, "env 1 3"]:
        """Return the best reply to a mixing opponent, equals shared; the uniform distribution otherwise."""
        return self._optimal

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        state = self.state[row].tolist()
        canvas, played = Canvas(560, 360), sum(state[COUNTS])
        canvas.text((280, 28), f"round {played} of {self.num_rounds}, score {state[SCORE]:+d}", size=18)
        for x, last, name, colour in (
            (140, state[OURS], "agent", BLUE),
            (420, state[THEIRS], f"opponent ({self.opponent})", ORANGE),
        ):
            canvas.circle((x, 135), 62, FAINT)
            if last >= 0:
                _draw_hand(canvas, (x, 135), last, colour)
                canvas.text((x, 212), NAMES[last], colour, size=16)
            canvas.text((x, 60), name, INK, size=15)
        for action, count in enumerate(state[COUNTS]):
            y, share = 250 + action * 32, count / max(played, 1)
            canvas.text((130, y), NAMES[action], INK, size=14, anchor="rm")
            canvas.rectangle(140, y - 9, 440, y + 9, FAINT, radius=3)
            if count:
                canvas.rectangle(140, y - 9, 140 + 300 * share, y + 9, BLUE, radius=3)
            canvas.text((450, y), f"{share:.2f}", INK, size=14, anchor="lm")
        return canvas.array()

    def describe(self, row: int) -> str:
        state = self.state[row].tolist()
        played = sum(state[COUNTS])
        shares = ", ".join(f"{name} {count}" for name, count in zip(NAMES, state[COUNTS], strict=True))
        last = f"{NAMES[state[OURS]]} against {NAMES[state[THEIRS]]}" if played else "nothing yet"
        return (
            f"round {played} of {self.num_rounds} against a {self.opponent} opponent, score {state[SCORE]:+d}\n"
            f"last: {last}; the agent played {shares}"
        )


def _checked(probs: Sequence[float]) -> Float[Tensor, "3"]:
    """Return a distribution over the three actions, float64."""
    checked = torch.tensor([float(p) for p in probs], dtype=torch.float64)
    if len(checked) != 3 or float(checked.min()) < 0 or abs(float(checked.sum()) - 1.0) > 1e-6:
        raise ValueError(f"opponent_probs are three numbers from 0 that sum to 1, got {list(probs)}")
    return checked


def _draw_hand(canvas: Canvas, centre: Point, action: int, colour: Colour) -> None:
    x, y = centre
    if action == 0:
        rim = [(-34, 8), (-24, -20), (2, -31), (28, -18), (35, 8), (18, 27), (-16, 28)]
        canvas.polygon([(x + dx, y + dy) for dx, dy in rim], colour)
    elif action == 1:
        canvas.rectangle(x - 26, y - 34, x + 26, y + 34, colour, radius=3)
        for line in range(4):
            canvas.line([(x - 17, y - 20 + line * 13), (x + 17, y - 20 + line * 13)], FAINT, width=3)
    else:
        for side in (-1, 1):
            canvas.line([(x + side * 20, y + 20), (x - side * 16, y - 36)], colour, width=6)
            canvas.circle((x + side * 23, y + 26), 11, None, outline=colour, width=5)
