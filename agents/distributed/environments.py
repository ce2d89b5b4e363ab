"""The environments of every member over processes: `torchrun --nproc-per-node 2 train.py --shard envs`.

Each process steps its share of the environments, keeps the replay of what they did, and takes its share of every batch.
Networks are the same everywhere: they start from the same seeds, and every optimiser step averages the gradients over
the processes, with the entropy and the divergence that coefficients follow. So do advantages, statistics of
observations and of episodes. What is learned is what one process with all environments would learn, up to rounding and
to which transitions meet in a minibatch, which each process draws among its own.

The first process writes the run's folder, which is that of one process: see `shares`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.run_folder import default_folder


class SharedRun:
    """A run whose environments the processes of a group have between them."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.config, self.folder = experiment, experiment.config, experiment.folder

    @classmethod
    def create(cls, config: RunConfig, group: Group) -> SharedRun:
        """Check and build the run on every process, then make its folder on the first.

        Raises:
            AgreedError: on all processes, what one of them was asked wrongly; nothing has been made.
        """
        folder = group.gather(config.output or default_folder(config))[0]
        run = cls(group.together(lambda: Experiment(replace(config, output=folder), group=group)))
        group.together(lambda: run.experiment.make_folder() if group.rank == 0 else None)
        return run

    @classmethod
    def load(cls, folder: Path, group: Group) -> SharedRun:
        """Return the run in a folder that every process sees, whoever trained it so far.

        Raises:
            AgreedError: there is none, its checkpoint is damaged, or so many processes cannot divide it.
        """
        run = cls(group.together(lambda: load_experiment(folder, group=group)))
        print(f"resuming {folder} at step {run.experiment.trainer.step:,}", flush=True)
        return run

    def train(self, group: Group) -> dict[str, Any]:
        """Train; return the results, on the first process, which evaluates while the others wait."""
        results = self.experiment.run()
        group.gather(None)
        return results

    def stopped(self) -> str:
        """Return what to say after an interrupt."""
        steps = self.experiment.store.steps()
        saved = f"saved at step {steps[-1]:,}" if steps else "nothing had been saved yet"
        return f"stopped; {saved}. To go on, alone or by torchrun with as many processes as divide the environments:"
