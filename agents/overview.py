"""`train.py --list`: the agents, policies, environments and presets, a line each."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

from gumbelrl.agents.presets import read_presets
from gumbelrl.agents.registry import AGENTS, POLICY_PRESETS
from gumbelrl.envs import ENVIRONMENTS
from gumbelrl.policies import ESTIMATORS

INDENT = 2


def overview(width: int | None = None) -> str:
    """Return the text, `width` characters wide or as wide as the terminal."""
    width = width or max(60, min(shutil.get_terminal_size((120, 24)).columns, 160))
    presets = {name: preset.result for name, preset in read_presets().items()}
    policies = {name: estimator.summary for name, estimator in ESTIMATORS.items()}
    policies |= {
        name: f"{preset.estimator} with the {preset.critic} critic ({preset.paper})"
        for name, preset in POLICY_PRESETS.items()
    }
    sections = [
        ("agents", "--agent", {name: entry.summary for name, entry in AGENTS.items()}),
        ("policies: how the gradient passes the sampled action", "--policy", policies),
        (
            "environments, beside any gymnasium id with discrete actions",
            "--env",
            {name: entry.summary for name, entry in ENVIRONMENTS.items()},
        ),
        ("presets", "--preset", presets),
    ]
    return "\n\n".join(_section(title, option, lines, width) for title, option, lines in sections)


def _section(title: str, option: str, lines: dict[str, str], width: int) -> str:
    column = max(map(len, lines)) + INDENT + 2
    return "\n".join([f"{title}  ({option})", *_rows(lines.items(), column, width)])


def _rows(lines: Iterable[tuple[str, str]], column: int, width: int) -> Iterable[str]:
    for name, text in lines:
        short = textwrap.shorten(text, width - column, placeholder=" …")
        yield f"{'':{INDENT}}{name:{column - INDENT}}{short}"
