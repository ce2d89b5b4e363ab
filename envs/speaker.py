"""Say symbols as often as a hidden source does: a return that rewards the right distribution, not the right guess.

In each of T steps of an episode the agent emits one of K symbols, and a hidden symbol is drawn from a target
distribution q (.7 and .3 by default). With x_t the symbol emitted, y_t the hidden one and N_k how often k was emitted
before,

    reward_t = (2/T) (1[x_t = y_t] − N_{x_t} / (T − 1)) − ‖q‖² / T.

The first term is for a match, the second for not repeating what has been said; alone, the first would ask for the most
frequent symbol always. Summed over an episode, in which every pair of emissions is counted once,

    E[return | x] = (2/T) Σ_t q(x_t) − (1/(T(T−1))) Σ_{s≠t} 1[x_s = x_t] − ‖q‖²,

the unbiased estimate (a U-statistic) of minus the squared distance between the two distributions, which is the squared
maximum mean discrepancy with the kernel 1[x = y] and the energy distance of the discrete metric.

The observation is the constant 1, so that a policy without memory is a distribution p, its emissions are independent,
and its expected return is exactly −‖p − q‖². The optimum is 0, at p = q only: random for its own sake. For (.7, .3):
the most frequent symbol always, −.18; a fair coin, −.08. What anneals to a deterministic policy loses; a policy
gradient and its estimators are told apart by whether they keep the interior optimum.

With `observe_counts` the counts are seen, and a policy can do better than chance by aiming at the best counts. In
whatever order final counts n are reached, the expected return is Σ_k [2 n_k q_k / T − n_k (n_k − 1) / (T (T − 1))] −
‖q‖², concave in each n_k. So adding one symbol at a time where the gain q_k − n_k / (T − 1) is largest is optimal, and
since the gain is the expected reward (times T/2, up to a constant), greed is. The optimum is (1 − ‖q‖²) / (T − 1) where
all T q_k are whole numbers, .0221 for (.7, .3) and T = 20. An agent that remembers its own actions can get as much of
the default.

References: Gretton et al. 2012, "A kernel two-sample test" (lemma 6, the unbiased estimate); Gneiting & Raftery 2007,
"Strictly proper scoring rules" (section 5, kernel scores).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from gumbelrl.envs.drawing import BLUE, INK, ORANGE, Canvas
from gumbelrl.envs.native import NativeEnv


class Speaker(NativeEnv[Tensor]):
    """Actions: the symbol to emit. Observation: the constant 1, or the counts so far over `num_emissions`.

    Args:
        target_probs: q, the distribution of the hidden source.
        num_emissions: T, of an episode; at least 2.
        observe_counts: show the counts.

    Attributes:
        counting_return: expected return of the best policy that counts what it has said.
    """

    num_step_random = 1

    def __init__(
        self,
        num_envs: int,
        *,
        target_probs: Sequence[float] = (0.7, 0.3),
        num_emissions: int = 20,
        observe_counts: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(num_envs, device=device)
        probs = torch.tensor([float(p) for p in target_probs], dtype=torch.float64)
        if len(probs) < 2 or float(probs.min()) < 0 or abs(float(probs.sum()) - 1.0) > 1e-6:
            raise ValueError(f"target_probs are at least two numbers from 0 that sum to 1, got {list(target_probs)}")
        if num_emissions < 2:
            raise ValueError(f"num_emissions must be at least 2, a pair to compare, got {num_emissions}")
        self.num_symbols, self.num_emissions, self.observe_counts = len(probs), num_emissions, observe_counts
        self.target_probs: Float[Tensor, " symbol"] = probs.float().to(self.device)
        self.single_action_space = spaces.Discrete(self.num_symbols)
        shape = (self.num_symbols if observe_counts else 1,)
        self.single_observation_space = spaces.Box(0.0, 1.0, shape, np.float32)
        self._cumulative = probs.cumsum(0)[:-1].float().to(self.device)
        self._symbols = torch.eye(self.num_symbols, device=self.device)
        self._zeros = torch.zeros(num_envs, self.num_symbols, device=self.device)
        self._one = torch.ones(num_envs, 1, device=self.device)
        self._norm = float(probs.square().sum())
        self.counting_return = self._count_best(probs)
        self.optimal_return = self.counting_return if observe_counts else 0.0

    def _count_best(self, probs: Float[Tensor, " symbol"]) -> float:
        """Return the expected return of greed, which is optimal: the best counts and what they give."""
        counts = torch.zeros_like(probs)
        for _ in range(self.num_emissions):
            counts[(probs - counts / (self.num_emissions - 1)).argmax()] += 1
        repeats = counts * (counts - 1) / (self.num_emissions - 1)
        return float((2 * counts * probs - repeats).sum()) / self.num_emissions - self._norm

    def value(self, action: Float[Tensor, "*batch emission symbol"]) -> Float[Tensor, "*batch"]:
        """Return the expected return of a whole episode's emissions, one-hot or relaxed; differentiable, multilinear.

        With the same probabilities p in all emissions it is −‖p − q‖².
        """
        emissions = action.shape[-2]
        total = action.sum(-2)
        pairs = total.square().sum(-1) - action.square().sum((-2, -1))
        return 2 * (total @ self.target_probs) / emissions - pairs / (emissions * (emissions - 1)) - self._norm

    def initial_state(self, noise: Tensor) -> Float[Tensor, "env symbol"]:
        return self._zeros.clone()

    def transition(
        self, state: Float[Tensor, "env symbol"], action: Int[Tensor, " env"], noise: Float[Tensor, "env 1"]
    ) -> tuple[Float[Tensor, "env symbol"], Float[Tensor, " env"], Bool[Tensor, " env"]]:
        hidden = (noise > self._cumulative).sum(1)
        said = state.gather(1, action.unsqueeze(1)).squeeze(1)
        match = (hidden == action).to(torch.float32) - said / (self.num_emissions - 1)
        state = state + self._symbols[action]
        reward = match * (2.0 / self.num_emissions) - self._norm / self.num_emissions
        return state, reward, state.sum(1) >= self.num_emissions

    def observe(self, state: Float[Tensor, "env symbol"]) -> Float[Tensor, "env feature"]:
        return state / self.num_emissions if self.observe_counts else self._one.clone()

    def optimal_probs(self) -> Float[Tensor, "env 1 symbol"]:
        """Return the target; where counts are seen, the symbol that lags most."""
        if not self.observe_counts:
            return self.target_probs.expand(self.num_envs, 1, -1)
        lag = self.target_probs - self.state / (self.num_emissions - 1)
        return functional.one_hot(lag.argmax(1), self.num_symbols).to(torch.float32).unsqueeze(1)

    # For people -----------------------------------------------------------------------------------------------------

    def draw(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        counts, target = self.state[row].tolist(), self.target_probs.tolist()
        said = max(sum(counts), 1.0)
        canvas = Canvas(480, 340)
        canvas.text((240, 28), f"{int(sum(counts))} of {self.num_emissions} symbols said", INK, size=18)
        width = 400 / self.num_symbols
        for symbol, (count, goal) in enumerate(zip(counts, target, strict=True)):
            left, bar = 40 + symbol * width + width * 0.14, width * 0.36
            for index, (share, colour) in enumerate(((count / said, BLUE), (goal, ORANGE))):
                x = left + index * bar
                canvas.rectangle(x, 288 - 210 * share, x + bar, 290, colour)
                canvas.text((x + bar / 2, 290 - 210 * share - 11), f"{share:.2f}", INK, size=13)
            canvas.text((left + bar, 304), str(symbol), INK)
        canvas.line([(40, 290), (440, 290)], INK, width=1)
        canvas.text((200, 326), "said", BLUE, size=15)
        canvas.text((280, 326), "hidden", ORANGE, size=15)
        return canvas.array()

    def describe(self, row: int) -> str:
        counts = [int(count) for count in self.state[row].tolist()]
        target = ", ".join(f"{p:g}" for p in self.target_probs.double().round(decimals=4).tolist())
        return f"{sum(counts)} of {self.num_emissions} symbols said, counts {counts}\nhidden distribution ({target})"
