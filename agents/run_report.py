"""What a person wants to know at the end of a run: a line a seed, or a line a variation where settings differ."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gumbelrl.agents.evaluation import KINDS
from gumbelrl.agents.progress import format_seconds, format_spread
from gumbelrl.agents.results import VariationResult, variation_results
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.variations import show


def report(config: RunConfig, folder: Path, results: Mapping[str, Any], *, seconds: float) -> None:
    """Print what came of a run.

    Args:
        folder: of the run.
        results: what `results.json` holds.
        seconds: that the command took.
    """
    variations = variation_results(results["members"])
    print()
    print("\n".join(variation_lines(variations) if variations else seed_lines(results["members"])))
    print()
    print(
        f"trained in {results['train_seconds']:.1f} s; this took {format_seconds(seconds)} in all; saved in {folder}/"
    )
    print("  README.md  config.json  metrics.jsonl  results.json  learning_curve.png  checkpoints/")
    if variations:
        print(f"intervals, pairs and curves of all variations:  python -m gumbelrl.agents.compare {folder}")
    if config.track != "off":
        print(f"look at the curves:  wandb leet {folder / 'wandb'}")
    sys.stdout.flush()


def seed_lines(members: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the seeds."""
    lines = [f"{'seed':>6} {'sampled return':>18} {'greedy return':>18} {'solved at step':>16}"]
    for member in members:
        solved = f"{member['solved_at']:,}" if member["solved_at"] else "–"
        cells = [format_spread(member[f"eval/{kind}_return"], member[f"eval/{kind}_return_std"]) for kind in KINDS]
        lines.append(f"{member['seed']:>6} {cells[0]:>18} {cells[1]:>18} {solved:>16}")
    return lines


def variation_lines(variations: Sequence[VariationResult]) -> list[str]:
    """Return a table of the variations, and the best by name."""
    names = [name.replace("_", "-") for name in variations[0].settings]
    header = [*names, "seeds", "sampled return", "greedy return", "solved"]
    rows = [
        [
            *(show(value) for value in each.settings.values()),
            str(each.num_seeds),
            *(each.spread(kind) for kind in KINDS),
            f"{each.num_solved}/{each.num_seeds}",
        ]
        for each in variations
    ]
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    best = variations[0]
    words = " ".join(f"--{name} {show(value)}" for name, value in zip(names, best.settings.values(), strict=True))
    over = "; returns are the mean and standard deviation over seeds" if best.num_seeds > 1 else ""
    return [*(f"  {line}" for line in lines), "", f"best: {words}  (sampled return {best.spread('sampled')}{over})"]
