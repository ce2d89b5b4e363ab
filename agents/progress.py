"""What a person sees while training runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

PLAIN_INTERVAL_S = 2.0


def format_seconds(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_return(value: float) -> str:
    """Return a return in as many decimals as its size calls for: 487.3, 0.583."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"


def format_spread(mean: float, deviation: float) -> str:
    """Return `mean ± deviation`, in the decimals of the larger."""
    decimals = len(format_return(max(abs(mean), abs(deviation))).partition(".")[2])
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def _shown(value: float) -> str:
    return format_return(value) if value == value else "–"


class Progress:
    """Shows steps, steps/s, return, entropy, temperature and time left.

    Numbers are means over members; where those differ in settings, `best` is the return of the best variation so far.

    Args:
        total_steps: steps of each member; `num_members` are trained at once.
        start_step: where a resumed run begins.
    """

    def __init__(
        self, total_steps: int, *, num_members: int = 1, start_step: int = 0, stream: TextIO = sys.stdout
    ) -> None:
        self.total_steps, self.num_members, self.start_step, self.stream = total_steps, num_members, start_step, stream
        self.start = self.last = time.perf_counter()
        self.live: Any = None
        if stream.isatty():
            from rich.live import Live

            self.live = Live(refresh_per_second=8, transient=False)

    def __enter__(self) -> Progress:
        if self.live is not None:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.__exit__(kind, error, trace)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.perf_counter()
        final = step >= self.total_steps
        if self.live is None and now - self.last < PLAIN_INTERVAL_S and not final:
            return
        self.last = now
        fields = self._fields(step, now - self.start, metrics)
        if self.live is None:
            print("  ".join(f"{name} {value}" for name, value in fields.items()), file=self.stream, flush=True)
        else:
            self.live.update(self._panel(step, fields))

    def _fields(self, step: int, elapsed: float, metrics: Mapping[str, float]) -> dict[str, str]:
        rate = (step - self.start_step) / max(elapsed, 1e-9)
        left = (self.total_steps - step) / max(rate, 1e-9)
        members = f" x {self.num_members}" if self.num_members > 1 else ""
        temperature = metrics.get("policy/temperature")  # an agent without an estimator has none
        return {
            "steps": f"{step:>9,}{members}",
            "steps/s": f"{rate * self.num_members:>8,.0f}",
            "return": f"{_shown(metrics['train/return']):>8}",
            **({"best": f"{_shown(metrics['best/return']):>8}"} if "best/return" in metrics else {}),
            "entropy": f"{metrics['policy/entropy']:.3f}",
            **({} if temperature is None else {"temperature": f"{temperature:.2f}"}),
            "left": format_seconds(max(left, 0.0)),
        }

    def _panel(self, step: int, fields: Mapping[str, str]) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 3))
        for name in fields:
            table.add_column(name, justify="right")
        table.add_row(*(f"[dim]{name}[/]" for name in fields))
        table.add_row(*(value.strip() for value in fields.values()))
        panel = Table.grid()
        panel.add_row(ProgressBar(total=self.total_steps, completed=min(step, self.total_steps), width=72))
        panel.add_row(table)
        return panel
