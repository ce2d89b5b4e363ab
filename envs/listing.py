"""What there is to say of each registered environment, as text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from gumbelrl.envs.native import choice_counts
from gumbelrl.envs.registry import ENVIRONMENTS


@dataclass(frozen=True)
class Row:
    """One environment, in words."""

    name: str
    observation: str
    action: str
    optimum: str
    limit: str
    summary: str
    separates: str
    source: str
    twin: str


def listing() -> list[Row]:
    """Return a row for each registered environment, made with its default options."""
    rows = []
    for name, entry in ENVIRONMENTS.items():
        env = entry.factory(1)
        optimum = env.optimal_return
        rows.append(
            Row(
                name=name,
                observation=describe_space(env.single_observation_space),
                action=describe_space(env.single_action_space),
                optimum="unknown" if optimum is None else f"{optimum:.4g}",
                limit="none" if env.max_episode_steps is None else f"{env.max_episode_steps} steps",
                summary=entry.summary,
                separates=entry.separates,
                source=entry.source,
                twin=entry.twin or "none",
            )
        )
    return rows


def describe_space(space: spaces.Space) -> str:
    """Return a space in few characters: equal variables are counted instead of listed."""
    if isinstance(space, spaces.Box):
        kind = np.dtype(space.dtype).name
        return f"Box {' × '.join(str(n) for n in space.shape)} {kind}"
    counts = [] if isinstance(space, spaces.Discrete) else choice_counts(space)
    if isinstance(space, spaces.MultiDiscrete) and len(set(counts)) == 1:
        return f"MultiDiscrete {len(counts)} × {counts[0]}"
    return (
        f"MultiBinary {len(counts)}"
        if isinstance(space, spaces.MultiBinary)
        else str(space).replace("(", " ").rstrip(")")
    )


def details(row: Row) -> str:
    """Return all of a row, a line each."""
    lines = [
        row.name,
        f"  what        {row.summary}",
        f"  separates   {row.separates}",
        f"  observation {row.observation}",
        f"  action      {row.action}",
        f"  optimum     {row.optimum}",
        f"  time limit  {row.limit}",
        f"  twin of     {row.twin}",
        f"  source      {row.source}",
    ]
    return "\n".join(lines)


def markdown(rows: list[Row]) -> str:
    """Return the table of docs/environments.md."""
    lines = ["| name | observation | action | optimal return | separates | source |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.name}`", row.observation, row.action, row.optimum, row.separates, row.source)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
