"""What a comparison leaves: a table on the terminal, `comparison.json`, plots, and `report.html`."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from gumbelrl.agents.compare.comparison import Comparison, compare
from gumbelrl.agents.compare.page import page
from gumbelrl.agents.compare.run_set import RunSet
from gumbelrl.agents.compare.serialisation import to_json
from gumbelrl.agents.compare.terminal import print_comparison
from gumbelrl.agents.progress import format_seconds
from gumbelrl.agents.run_folder import write_whole

JSON_FILE, PAGE_FILE, PLOTS_FOLDER = "comparison.json", "report.html", "plots"


def train_and_compare(runs: RunSet, *, start: float) -> int:
    """Train what is not finished, then compare; return the exit status.

    Args:
        start: when the command began, by `time.perf_counter()`.

    Raises:
        RunError: no run finished.
    """
    from gumbelrl.agents.compare.upload import upload_report

    try:
        runs.run()
    except KeyboardInterrupt:
        print(
            f"\nstopped; {runs.num_finished} of {len(runs.configs)} runs are finished. To go on with the rest:\n"
            f"  python train.py --resume {runs.folder}",
            file=sys.stderr,
        )
        return 130
    print("comparing: intervals, plots and report …", flush=True)
    comparison = compare([runs.folder])
    write_report(comparison, runs.folder)
    print_comparison(comparison)
    with suppress(KeyboardInterrupt):  # the report is there; who does not want to wait for W&B leaves that to itself
        files = [runs.folder / name for name in (PAGE_FILE, JSON_FILE)]
        upload_report(comparison, runs.folder, files, runs.configs)
    print_files(runs.folder, seconds=time.perf_counter() - start)
    return 1 if runs.failures else 0


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.json`, `plots/` and `report.html`, each file whole or not at all; older ones are replaced."""
    from gumbelrl.agents.compare.plots import save_plots

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_json(comparison), indent=1, allow_nan=False, ensure_ascii=False)
    write_whole(folder / JSON_FILE, text + "\n")
    save_plots(comparison, folder / PLOTS_FOLDER)
    write_whole(folder / PAGE_FILE, page(comparison))


def print_files(folder: Path, *, seconds: float) -> None:
    """Say where everything lies."""
    print(f"this took {format_seconds(seconds)} in all; saved in {folder}/")
    print(f"  {PAGE_FILE}  {JSON_FILE}  {PLOTS_FOLDER}/")
    sys.stdout.flush()
