"""Train an agent on a discrete environment: `python train.py --env CartPole-v1 --policy gumbel`."""

from __future__ import annotations

import sys
import time

START = time.perf_counter()

from gumbelrl.agents.command_line import main  # noqa: E402 (the clock starts before torch is imported)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], start=START))
