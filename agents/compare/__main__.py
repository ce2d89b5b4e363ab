"""`python -m gumbelrl.agents.compare RUN…`: compare runs that are finished, of one environment or of several."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gumbelrl.agents.compare.comparison import MEASURES, compare
from gumbelrl.agents.compare.report import JSON_FILE, print_files, write_report
from gumbelrl.agents.compare.terminal import print_comparison
from gumbelrl.agents.errors import RunError


def main(words: Sequence[str]) -> int:
    """Compare; return the exit status: 0, or 2 for what was asked wrongly."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(prog="python -m gumbelrl.agents.compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or folders that hold some, at any depth"
    )
    parser.add_argument("--measure", choices=MEASURES, default="sampled", help="the final return that is compared")
    parser.add_argument("--threshold", type=float, help="the return that counts as enough; by default gymnasium's")
    parser.add_argument("--output", type=Path, help="folder of the report; made under runs/ where none is given")
    options = parser.parse_args(words)
    folder = options.output or Path("runs") / f"comparison_{datetime.now():%Y%m%d-%H%M%S}"
    try:
        check_output(folder)
        print("comparing: intervals, plots and report …", flush=True)
        comparison = compare(options.runs, measure=options.measure, threshold=options.threshold)
        write_report(comparison, folder)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_comparison(comparison)
    print_files(folder, seconds=time.perf_counter() - start)
    return 0


def check_output(folder: Path) -> None:
    """Refuse a folder that holds anything else than runs or an older report, which is replaced.

    Raises:
        RunError: something else is there.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--output {folder}: a file is in the way; name another folder")
    known = {JSON_FILE, "set.json", "config.json"}
    if folder.is_dir() and any(folder.iterdir()) and not known & {path.name for path in folder.iterdir()}:
        raise RunError(f"--output {folder}: the folder holds other files; name a new one, or one with an older report")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
