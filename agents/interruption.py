"""Ctrl-C, and a polite kill, between iterations."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_interrupt() -> Iterator[list[int]]:
    """Collect interrupts in a list that the loop looks at, so that an iteration is never cut in two."""
    stop: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if stop:  # a second Ctrl-C does not wait
            raise KeyboardInterrupt
        stop.append(signum)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have a polite kill do what Ctrl-C does, so that what follows an interrupt is said and closed."""

    def handle(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
