"""What can be wrong with a run, said in a sentence; the command line prints it and exits with status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RunError(ValueError):
    """A run that cannot start or go on because of what it was given; the message says what would be right."""


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`.

    Raises:
        RunError: it is not; the message gives the nearest names, or all of them.
    """
    names = sorted(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise RunError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}.")
