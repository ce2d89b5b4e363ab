"""The shape of a discrete action: groups of choices, and how environments write it.

`Discrete(n)` is 1 × n, `MultiDiscrete([3, 5])` is 2 × 5 with the ragged end masked, `MultiBinary(k)` is k × 2, and
`Tuple` and `Dict` of these are their groups in order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gumbelrl.policies.sampling import one_hot

MOST_JOINT_ACTIONS = 1 << 16


@dataclass(frozen=True)
class _Leaf:
    """A space without parts: its groups are `start … start + prod(shape) − 1`."""

    space: spaces.Space
    group: int
    shape: tuple[int, ...]
    offset: Tensor  # added to a choice to give the environment's number, [group]


def _leaf(space: spaces.Space, group: int) -> tuple[_Leaf, list[int]]:
    """Return the leaf and the number of choices of each of its groups."""
    if isinstance(space, spaces.Discrete):
        return _Leaf(space, group, (), torch.tensor([int(space.start)])), [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        start = torch.as_tensor(space.start.reshape(-1).astype("int64"))
        return _Leaf(space, group, space.nvec.shape, start), [int(n) for n in space.nvec.reshape(-1)]
    if isinstance(space, spaces.MultiBinary):
        count = math.prod(space.shape)
        return _Leaf(space, group, space.shape, torch.zeros(count, dtype=torch.int64)), [2] * count
    if isinstance(space, spaces.Box):
        raise TypeError(
            f"the action space {space} is continuous: gumbelrl needs Discrete, MultiDiscrete, MultiBinary, or a Tuple "
            "or Dict of them; discretise the actions with a gymnasium wrapper, or use an agent for Box actions "
            "such as stable-baselines3's SAC"
        )
    raise TypeError(
        f"the action space {space} is not discrete: gumbelrl needs Discrete, MultiDiscrete, MultiBinary, "
        "or a Tuple or Dict of them"
    )


class ActionLayout:
    """Groups × choices of a discrete action space.

    Attributes:
        num_groups: categorical variables of one action.
        num_choices: categories of the largest of them.
        choice_counts: categories of each.
        static_mask: bool `[group, choice]`, True where a choice exists; None where all groups are equally large.
    """

    def __init__(self, space: spaces.Space, *, device: torch.device | str = "cpu") -> None:
        self.space, self.device = space, torch.device(device)
        self._leaves: list[_Leaf] = []
        counts: list[int] = []
        self._tree = self._grow(space, counts)
        if not counts:
            raise ValueError(f"the action space {space} has no variable to choose")
        self.choice_counts = tuple(counts)
        self.num_groups, self.num_choices = len(counts), max(counts)
        sizes = torch.tensor(counts, device=self.device)
        ragged = torch.arange(self.num_choices, device=self.device) < sizes.unsqueeze(1)
        self.static_mask: Bool[Tensor, "group choice"] | None = ragged if min(counts) < max(counts) else None
        self._offset = torch.cat([leaf.offset for leaf in self._leaves]).to(self.device)
        self._has_offset = bool(self._offset.any())

    @classmethod
    def from_space(cls, space: spaces.Space, *, device: torch.device | str = "cpu") -> ActionLayout:
        """Return the layout of a space.

        Raises:
            TypeError: the space is not discrete.
        """
        return cls(space, device=device)

    def to(self, device: torch.device | str) -> ActionLayout:
        return self if torch.device(device) == self.device else ActionLayout(self.space, device=device)

    def _grow(self, space: spaces.Space, counts: list[int]) -> Any:
        """Return the space with its leaves numbered, in gymnasium's order (a Dict's keys are sorted or as given)."""
        if isinstance(space, spaces.Tuple):
            return tuple(self._grow(part, counts) for part in space.spaces)
        if isinstance(space, spaces.Dict):
            return {key: self._grow(part, counts) for key, part in space.spaces.items()}
        leaf, sizes = _leaf(space, len(counts))
        counts.extend(sizes)
        self._leaves.append(leaf)
        return leaf

    def __repr__(self) -> str:
        return f"ActionLayout({self.num_groups} groups x {self.num_choices} choices, from {self.space})"

    # Conversion -----------------------------------------------------------------------------------------------------

    def to_one_hot(self, action: Any) -> Float[Tensor, "*batch group choice"]:
        """Return the one-hot form of environment actions: a tensor, an array, or a tree of them for Tuple and Dict."""
        parts: list[Tensor] = []
        self._collect(self._tree, action, parts)
        return one_hot(torch.cat(parts, dim=-1) - self._offset, self.num_choices)

    def _collect(self, node: Any, action: Any, parts: list[Tensor]) -> None:
        if isinstance(node, _Leaf):
            index = torch.as_tensor(action, device=self.device).to(torch.int64)
            rank = len(node.shape)
            parts.append(index.flatten(index.dim() - rank) if rank else index.unsqueeze(-1))
        else:
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            for key, child in items:
                self._collect(child, action[key], parts)

    def from_one_hot(self, action: Float[Tensor, "*batch group choice"]) -> Any:
        """Return environment actions, int64: `[*batch]` for Discrete, `[*batch, *shape]` for the others, or a tree."""
        index = action.argmax(-1)
        return self._place(self._tree, index + self._offset if self._has_offset else index)

    def _place(self, node: Any, index: Int[Tensor, "*batch group"]) -> Any:
        if isinstance(node, _Leaf):
            if not node.shape:
                return index[..., node.group]
            part = index[..., node.group : node.group + math.prod(node.shape)]
            return part.unflatten(-1, node.shape) if len(node.shape) > 1 else part
        if isinstance(node, Mapping):
            return {key: self._place(child, index) for key, child in node.items()}
        return tuple(self._place(child, index) for child in node)

    # Masks ----------------------------------------------------------------------------------------------------------

    def merge_mask(self, mask: Any | None) -> Bool[Tensor, "*batch group choice"] | None:
        """Return the dynamic `mask` with the static one, or None where every choice is valid.

        Args:
            mask: True or nonzero where valid; `[..., group, choice]`, or flat as gymnasium and sb3-contrib give it,
                `[..., sum of choice_counts]`.

        Raises:
            ValueError: the mask has another shape.
        """
        if mask is None:
            return self.static_mask
        valid = torch.as_tensor(mask, device=self.device).to(torch.bool)
        if valid.shape[-2:] == (self.num_groups, self.num_choices) and valid.dim() >= 2:
            shaped = valid
        elif valid.shape[-1:] == (sum(self.choice_counts),):
            shaped = self._unflatten_mask(valid)
        else:
            raise ValueError(
                f"an action mask for {self} is [..., {self.num_groups}, {self.num_choices}] or "
                f"[..., {sum(self.choice_counts)}], got {tuple(valid.shape)}"
            )
        return shaped if self.static_mask is None else shaped & self.static_mask

    def _unflatten_mask(self, flat: Bool[Tensor, "*batch total"]) -> Bool[Tensor, "*batch group choice"]:
        if self.static_mask is None:
            return flat.unflatten(-1, (self.num_groups, self.num_choices))
        rows = [
            torch.nn.functional.pad(part, (0, self.num_choices - part.shape[-1]))
            for part in flat.split(self.choice_counts, dim=-1)
        ]
        return torch.stack(rows, dim=-2)

    def check_mask(self, mask: Bool[Tensor, "*batch group choice"]) -> None:
        """Check that every group can choose; reads the mask on the host.

        Raises:
            ValueError: a group has no valid choice; the message names the environment row.
        """
        empty = ~mask.any(-1)
        if bool(empty.any()):
            *row, group = (int(i) for i in empty.nonzero()[0])
            where = f"environment row {row[0] if len(row) == 1 else tuple(row)}" if row else "the mask"
            raise ValueError(f"{where} has no valid choice in group {group}: at least one action must be allowed")

    # Enumeration ----------------------------------------------------------------------------------------------------

    @property
    def num_joint_actions(self) -> int:
        return math.prod(self.choice_counts)

    def enumerate_actions(self) -> Float[Tensor, "action group choice"]:
        """Return every joint action as a one-hot.

        Raises:
            ValueError: there are more than `MOST_JOINT_ACTIONS`.
        """
        if self.num_joint_actions > MOST_JOINT_ACTIONS:
            raise ValueError(f"{self} has {self.num_joint_actions:,} joint actions, too many to enumerate")
        index = torch.tensor(list(itertools.product(*map(range, self.choice_counts))), device=self.device)
        return one_hot(index, self.num_choices)
