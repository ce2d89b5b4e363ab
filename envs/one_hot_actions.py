"""A discrete action space as a `Box` of one-hot vectors, for agents that know continuous actions only."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from jaxtyping import Float

from gumbelrl.envs.native import choice_counts

NEARLY = 1e-4  # what rescaling to [-1, 1] and back may leave of rounding


class OneHotBox(spaces.Box):
    """One-hot vectors of a discrete space's variables side by side, float32 `[sum of choice_counts]` in [0, 1].

    Its samples are one-hot, so that an agent's random warm-up does what the environment can do.

    Attributes:
        discrete_space: what it presents: Discrete, MultiDiscrete or MultiBinary.
        choice_counts: the number of choices of each variable.
        largest_entropy: that of the uniform policy, in nats: the scale of a target for the entropy.

    Raises:
        TypeError: the space is not one of these.
    """

    def __init__(self, discrete_space: spaces.Space, seed: int | np.random.Generator | None = None) -> None:
        _check(discrete_space)
        self.discrete_space = discrete_space
        self.choice_counts = tuple(choice_counts(discrete_space))
        self.largest_entropy = sum(math.log(count) for count in self.choice_counts)
        super().__init__(0.0, 1.0, (sum(self.choice_counts),), np.float32, seed)
        ends = np.cumsum(self.choice_counts)
        self._starts, self._ends = ends - self.choice_counts, ends
        start = getattr(discrete_space, "start", 0)
        self._offset = np.asarray(start, dtype=np.int64).reshape(-1)

    def sample(self, mask: Any = None, probability: Any = None) -> Float[np.ndarray, " choice"]:
        """Return a one-hot vector, each choice equally likely."""
        if mask is not None or probability is not None:
            raise ValueError("OneHotBox.sample takes neither mask nor probability: sample discrete_space with them")
        index = self._starts + self.np_random.integers(0, self.choice_counts)
        return self._one_hot(index)

    def contains(self, x: Any) -> bool:
        """Say whether `x` is a one-hot vector of each variable."""
        vector = np.asarray(x)
        return bool(vector.shape == self.shape and self._index(vector) is not None)

    def to_one_hot(self, action: Any) -> Float[np.ndarray, " choice"]:
        """Return the vector of an action of `discrete_space`."""
        return self._one_hot(self._starts + np.asarray(action, dtype=np.int64).reshape(-1) - self._offset)

    def from_one_hot(self, vector: Float[np.ndarray, " choice"]) -> Any:
        """Return the action of `discrete_space` that a vector stands for.

        Raises:
            ValueError: the vector is not one-hot; it says which agents and settings give such vectors.
        """
        index = self._index(np.asarray(vector)) if np.shape(vector) == self.shape else None
        if index is None:
            raise ValueError(
                f"{np.array2string(np.asarray(vector), precision=3, threshold=12)} is not a one-hot action of "
                f"{self.discrete_space}: use a policy that samples one-hot actions, as GumbelSACPolicy and "
                "GumbelTD3Policy do, and no action_noise: they explore by sampling"
            )
        chosen = index - self._starts + self._offset
        if isinstance(self.discrete_space, spaces.Discrete):
            return chosen[0]
        return chosen.astype(self.discrete_space.dtype).reshape(self.discrete_space.shape or ())

    def _one_hot(self, index: np.ndarray) -> np.ndarray:
        vector = np.zeros(self.shape, dtype=np.float32)
        vector[index] = 1.0
        return vector

    def _index(self, vector: np.ndarray) -> np.ndarray | None:
        """Return where the ones are, one a variable; None where it is not so."""
        index = np.flatnonzero(vector > 0.5)
        if len(index) != len(self._starts) or (index < self._starts).any() or (index >= self._ends).any():
            return None
        return index if np.abs(vector - (vector > 0.5)).max() <= NEARLY else None

    def __repr__(self) -> str:
        return f"OneHotBox({self.discrete_space})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OneHotBox) and self.discrete_space == other.discrete_space

    __hash__ = None  # type: ignore[assignment]  # as every gymnasium space


def _check(space: spaces.Space) -> None:
    if isinstance(space, OneHotBox):
        raise TypeError("the actions are one-hot already: wrap the environment in OneHotActions once")
    if isinstance(space, spaces.Box):
        raise TypeError(f"OneHotActions presents discrete actions; {space} is continuous already: use SAC or TD3 as is")
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise TypeError(
            f"OneHotActions takes Discrete, MultiDiscrete and MultiBinary actions, got {space}: flatten it first, "
            "for example with a gymnasium.ActionWrapper that shows a MultiDiscrete"
        )


class OneHotActions(gymnasium.ActionWrapper, gymnasium.utils.RecordConstructorArgs):
    """Shows the discrete actions of an environment as one-hot vectors, an `OneHotBox`.

    With it stable-baselines3's unmodified SAC, TD3 and DDPG act on discrete spaces, given a policy that samples one-hot
    vectors: `gumbelrl.policies.sb3`. What they put into their replay is what the environment ran.

    Raises:
        TypeError: the action space is not Discrete, MultiDiscrete or MultiBinary.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.one_hot = OneHotBox(env.action_space)
        self.action_space = self.one_hot

    def action(self, action: Float[np.ndarray, " choice"]) -> Any:
        """Return the environment's own action.

        Raises:
            ValueError: it is not one-hot.
        """
        return self.one_hot.from_one_hot(action)
