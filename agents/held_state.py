"""Where an object of this package, and what it holds, keeps its tensors and its numbers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn

Path: TypeAlias = tuple[Hashable, ...]


@dataclass
class Place:
    """Where something is held: the holder may be another object by the next look, the path to it is the same."""

    path: Path
    holder: MutableMapping[Any, Any] | MutableSequence[Any]
    key: Any

    @property
    def value(self) -> Any:
        return self.holder[self.key]

    def put(self, value: Any) -> None:
        self.holder[self.key] = value

    @property
    def name(self) -> str:
        """The path as one would write it."""
        return ".".join(str(part) for part in self.path)


def places(root: object, *, leave_out: Sequence[object] = ()) -> Iterator[Place]:
    """Yield every place under `root` that holds a tensor or a number, in an order that stays.

    Looked into are dictionaries, lists, modules and objects of this package, each once, but for what is left out.
    """
    seen = {id(each) for each in leave_out}
    waiting: list[tuple[Path, Any]] = [((), root)]
    while waiting:
        path, held = waiting.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, MutableMapping):
            # A key that is a tensor (an optimiser's) would be compared by its numbers.
            entries = [(index if isinstance(key, Tensor) else key, key) for index, key in enumerate(held)]
        elif isinstance(held, list):
            entries = [(index, index) for index in range(len(held))]
        elif type(held).__module__.startswith("gumbelrl.") or isinstance(held, nn.Module):
            waiting.append((path, getattr(held, "__dict__", {})))
            continue
        else:
            continue
        for part, key in entries:
            value = held[key]
            if isinstance(value, Tensor | bool | int | float):
                yield Place((*path, part), held, key)
            else:
                waiting.append(((*path, part), value))


def tensors_of(root: object, *, leave_out: Sequence[object] = ()) -> list[Place]:
    """Return the places that hold tensors."""
    return [place for place in places(root, leave_out=leave_out) if isinstance(place.value, Tensor)]


def numbers_of(root: object, *, leave_out: Sequence[object] = ()) -> list[Place]:
    """Return the places that hold numbers, on the host."""
    return [place for place in places(root, leave_out=leave_out) if not isinstance(place.value, Tensor)]
