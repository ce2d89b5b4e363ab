"""What a result must say about where it came from."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from typing import Any

import torch

import gumbelrl


def provenance() -> dict[str, Any]:
    """Return date, commit, versions and hardware, for the head of a results file."""
    git = ["git", "-C", __file__.rpartition("/")[0]]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    elsewhere = ["--", ":/", ":(exclude,top)benchmarks/results"]  # where benchmarks write, one after another
    dirty = subprocess.run([*git, "status", "--porcelain", *elsewhere], capture_output=True, text=True, check=False)
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else ""),
        "gumbelrl": gumbelrl.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cpu_threads": torch.get_num_threads(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{names[0]}, {len(names)} cores" if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()
