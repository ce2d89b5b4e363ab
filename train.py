"""Train an agent on a discrete environment: `python train.py --env CartPole-v1 --policy gumbel`."""

from __future__ import annotations

import gc
import sys
import time
import warnings

START = time.perf_counter()
gc.disable()  # what is imported stays, and looking through it for garbage takes a tenth of the start

from gumbelrl.agents.command_line import main  # noqa: E402 (the clock starts before torch is imported)

gc.freeze()
gc.enable()

if __name__ == "__main__":
    # A sentence, without the place in the code that said it.
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    sys.exit(main(sys.argv[1:], start=START))
