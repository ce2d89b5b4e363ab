"""Replay on the device: a ring of n-step transitions for each member, as the environment ran them.

Nothing is rounded: an action is the index that was chosen in each group, an observation is stored as its space has it
(uint8 or bool images as they are, a Discrete state as its number, other vectors as floats).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout
from gumbelrl.policies.sampling import one_hot
from gumbelrl.random import RandomStreams

# Exact in float32, which is what networks are given.
SMALL_TYPES = {"bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16}


@dataclass(frozen=True)
class Batch:
    """Transitions drawn from a replay, `[member, batch, ...]`.

    `reward` is the discounted sum over up to n steps, `discount` what the value of `next_observation` counts: γ to the
    number of steps, or 0 where the episode terminated. Masks are None where every choice is always valid; `probs` are
    those of the policy that acted, if they are kept.
    """

    observation: Float[Tensor, "member batch feature"]
    action: Float[Tensor, "member batch group choice"]
    reward: Float[Tensor, "member batch"]
    discount: Float[Tensor, "member batch"]
    next_observation: Float[Tensor, "member batch feature"]
    mask: Bool[Tensor, "member batch group choice"] | None = None
    next_mask: Bool[Tensor, "member batch group choice"] | None = None
    probs: Float[Tensor, "member batch group choice"] | None = None

    def columns(self) -> dict[str, Tensor]:
        """Return what it has, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def split(self, size: int) -> list[Batch]:
        """Return it as batches of `size`."""
        columns = self.columns()
        return [
            Batch(**{name: column[:, start : start + size] for name, column in columns.items()})
            for start in range(0, self.reward.shape[1], size)
        ]


def index_type(count: int) -> torch.dtype:
    """Return the smallest signed integer that holds 0 … count − 1."""
    return next(kind for kind in (torch.int8, torch.int16, torch.int32) if count - 1 <= torch.iinfo(kind).max)


class ObservationCodec:
    """Vectors of features, as networks take them, to what is stored, and back without loss.

    Args:
        space: of one observation; None stores the vectors as they are.
    """

    def __init__(self, space: spaces.Space | None) -> None:
        self.num_states = int(space.n) if isinstance(space, spaces.Discrete) else None
        self.dtype: torch.dtype | None = None
        if isinstance(space, spaces.Box):
            self.dtype = SMALL_TYPES.get(str(space.dtype))

    def encode(self, features: Float[Tensor, "*batch feature"]) -> Shaped[Tensor, "*batch stored"]:
        if self.num_states is not None:
            return features.argmax(-1, keepdim=True).to(index_type(self.num_states))
        return features if self.dtype is None else features.to(self.dtype)

    def decode(self, stored: Shaped[Tensor, "*batch stored"]) -> Float[Tensor, "*batch feature"]:
        if self.num_states is not None:
            return one_hot(stored.squeeze(-1).long(), self.num_states).to(torch.get_default_dtype())
        return stored if self.dtype is None else stored.to(torch.get_default_dtype())


class Replay:
    """The last `capacity` transitions of each member.

    Its position and size are tensors, so that writing and sampling have fixed shapes and never wait for the device;
    `num_rows` says the same on the host, which can count.

    Args:
        layout: the action space.
        capacity: transitions of each member.
        return_steps: n of the n-step returns; 1 for none.
        discount: γ, or `[member, 1]`.
        space: of one observation.
        keep_probs: keep the probabilities of the policy that acted (`interpolated` critics are fitted there).
    """

    def __init__(
        self,
        layout: ActionLayout,
        *,
        capacity: int,
        return_steps: int = 1,
        discount: float | Tensor = 0.99,
        space: spaces.Space | None = None,
        keep_probs: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout, self.capacity, self.return_steps, self.discount = layout, capacity, return_steps, discount
        self.codec, self.keep_probs, self.device = ObservationCodec(space), keep_probs, torch.device(device)
        self.columns: dict[str, Shaped[Tensor, "member capacity *row"]] = {}  # made when the first rollout shows how
        self.pending: dict[str, Shaped[Tensor, "time member env *row"]] = {}
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.size = torch.zeros((), dtype=torch.int64, device=device)
        self.num_rows = 0

    def num_bytes(self) -> int:
        """Return the memory of all members; known once the first transition is in."""
        return sum(column.numel() * column.element_size() for column in self.columns.values())

    # Writing --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add(self, rollout: Transition) -> None:
        """Add a rollout that follows the last one. A transition enters when the n steps that it spans are over."""
        steps = self._steps(rollout)
        if self.pending:
            steps = {name: torch.cat([self.pending[name], column]) for name, column in steps.items()}
        spare = self.return_steps - 1
        if spare:
            self.pending = {name: column[-spare:].clone() for name, column in steps.items()}
        time, _, envs = steps["reward"].shape
        if time > spare:
            if not self.columns:
                self._make_columns(steps)
            self._enter(steps)
            self.num_rows = min(self.num_rows + (time - spare) * envs, self.capacity)

    def _steps(self, rollout: Transition) -> dict[str, Tensor]:
        """Return the rollout as it is stored, each `[time, member, env, ...]`."""
        steps = {
            "observation": self.codec.encode(rollout.observation),
            "action": rollout.action.argmax(-1).to(index_type(self.layout.num_choices)),
            "reward": rollout.reward,
            "terminated": rollout.terminated,
            "truncated": rollout.truncated,
            "next_observation": self.codec.encode(rollout.final_observation),
        }
        if rollout.mask is not None:
            assert rollout.final_mask is not None
            steps |= {"mask": rollout.mask, "next_mask": rollout.final_mask}
        if self.keep_probs:
            steps["probs"] = rollout.logits.softmax(-1)
        return steps

    def _make_columns(self, steps: dict[str, Tensor]) -> None:
        """Make room for transitions like those of some steps."""
        for name, column in n_step_transitions(steps, self.return_steps, self.discount).items():
            shape = (column.shape[1], self.capacity, *column.shape[3:])
            self.columns[name] = torch.zeros(shape, dtype=column.dtype, device=self.device)

    def _enter(self, steps: dict[str, Tensor]) -> None:
        """Write the transitions of some steps over the oldest rows; all that is done on the device."""
        transitions = n_step_transitions(steps, self.return_steps, self.discount)
        rows = {name: column.transpose(0, 1).flatten(1, 2)[:, -self.capacity :] for name, column in transitions.items()}
        count = rows["reward"].shape[1]
        where = (self.position + torch.arange(count, device=self.device)) % self.capacity
        for name, row in rows.items():
            self.columns[name].index_copy_(1, where, row)
        self.position.add_(count).remainder_(self.capacity)
        self.size.add_(count).clamp_(max=self.capacity)

    # Reading --------------------------------------------------------------------------------------------------------

    def sample(self, count: int, *, generator: RandomStreams) -> Batch:
        """Return `count` transitions of each member, each uniform over those held; from the member's own stream."""
        members = generator.rows
        bits = generator.bits(count)
        row = ((bits >> 1) & ((1 << 62) - 1)) % self.size  # the bias is below capacity · 2^−62
        row = (row + torch.arange(members, device=self.device).unsqueeze(1) * self.capacity).flatten()
        return self._batch(row, members)

    def _batch(self, row: Int[Tensor, " member_batch"], members: int) -> Batch:
        taken = {
            name: column.flatten(0, 1).index_select(0, row).unflatten(0, (members, -1))
            for name, column in self.columns.items()
        }
        for name in ("observation", "next_observation"):
            taken[name] = self.codec.decode(taken[name])
        taken["action"] = one_hot(taken["action"].long(), self.layout.num_choices)
        return Batch(**taken)

    # State ----------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "columns": dict(self.columns),
            "pending": dict(self.pending),
            "position": self.position,
            "size": self.size,
            "num_rows": self.num_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.columns = {name: column.to(self.device).clone() for name, column in state["columns"].items()}
        self.pending = {name: column.to(self.device).clone() for name, column in state["pending"].items()}
        self.position.copy_(state["position"])
        self.size.copy_(state["size"])
        self.num_rows = state["num_rows"]


def n_step_transitions(steps: dict[str, Tensor], return_steps: int, discount: float | Tensor) -> dict[str, Tensor]:
    """Return the transitions of up to n steps that start in all but the last n − 1 of the given steps.

    A transition ends where its episode ends, terminated or truncated; then it is shorter.

    Args:
        steps: columns `[time, member, env, ...]`: `reward`, `terminated`, `truncated`, `next_observation`, perhaps
            `next_mask`, which are of a step's end, and others, which are of its start.
        return_steps: n.
        discount: γ, or `[member, 1]`.

    Returns:
        columns `[time − n + 1, member, env, ...]`: `reward`, the sum of γ^k r_{t+k}; `discount`, γ to the number of
        steps or 0 where the last of them terminated; `next_observation` and `next_mask` after the last of them.

    Reference: Sutton 1988; n-step in replay: Hessel et al. 2018, arXiv:1710.02298, section 3.
    """
    length = steps["reward"].shape[0] - return_steps + 1
    ended = steps["terminated"] | steps["truncated"]
    goes_on = ~ended[:length]
    reward = steps["reward"][:length]
    extra = torch.zeros_like(goes_on, dtype=torch.int64)  # steps beyond the first
    for k in range(1, return_steps):
        reward = reward + discount**k * goes_on * steps["reward"][k : k + length]
        extra = extra + goes_on
        goes_on = goes_on & ~ended[k : k + length]

    def at_the_end(column: Tensor) -> Tensor:
        if return_steps == 1:
            return column
        time, member, env = (torch.arange(size, device=column.device) for size in (length, *column.shape[1:3]))
        return column[time[:, None, None] + extra, member[:, None], env]

    starts = ("observation", "action", "mask", "probs")
    ends = ("next_observation", "next_mask")
    return {
        **{name: column[:length] for name, column in steps.items() if name in starts},
        **{name: at_the_end(column) for name, column in steps.items() if name in ends},
        "reward": reward,
        "discount": discount ** (extra + 1) * ~at_the_end(steps["terminated"]),
    }
