"""What makes a rollout nothing to learn from, and where to look for it: at once, or on the device, to be read later.

A check on the host waits for the device. On a GPU, where an iteration is a queue of work that the host fills, `Faults`
notes the first of each kind on the device, and the host looks when it reads metrics anyway: the message is the same,
and no checkpoint is written in between, but some iterations may have been made for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.rollout import Transition

KINDS = ("mask", "observation", "reward", "first observation")  # in the order in which they are told
NEVER = torch.iinfo(torch.int64).max
SHOWN = 8  # numbers of a vector that is not finite


def not_finite(name: str, values: Sequence[float], *, env: int, seed: int, step: int) -> RunError:
    """Return what to say of an observation or a reward with a number that is not finite."""
    return RunError(
        f"{name} is not finite ({list(values)}) in environment {env} of seed {seed}, at step {step} of that member"
    )


def nothing_allowed(*, group: int, env: int, seed: int, step: int) -> RunError:
    """Return what to say of a mask that allows nothing."""
    return RunError(
        f"no action is allowed in environment {env} of seed {seed} (group {group} of its action mask is all False) at "
        f"step {step} of that member: an environment must allow at least one action in every state"
    )


class Faults:
    """The first fault of each kind since `start`, on the device: fixed shapes, no host synchronisation.

    Args:
        seeds: of the members.
        num_envs: environments of each member.
        rollout_steps: steps of each environment in a rollout.
        steps_per_iteration: by which a member's steps go on with each rollout.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        num_envs: int,
        rollout_steps: int,
        *,
        steps_per_iteration: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seeds, self.num_envs, self.steps_per_iteration = tuple(seeds), num_envs, steps_per_iteration
        self.cells = rollout_steps * len(self.seeds) * num_envs  # of a rollout, in the order [time, member, env]
        self.iteration = torch.zeros((), dtype=torch.int64, device=device)
        self.first = torch.empty(len(KINDS), dtype=torch.int64, device=device)  # iteration · cells + cell, or NEVER
        self.values = torch.zeros(len(KINDS), SHOWN, device=device)
        self.widths = dict.fromkeys(KINDS, 1)  # of what `values` holds
        self.start(0)

    def start(self, step: int) -> None:
        """Forget everything; the next rollout begins at this step of each member."""
        self.first_step = step
        self.iteration.zero_()
        self.first.fill_(NEVER)

    @torch.no_grad()
    def record(self, rollout: Transition) -> None:
        """Look through a rollout."""
        wrong, kinds = [], []
        for kind, bad, rows in _suspects(rollout):
            wrong.append((bad.flatten(), rows.flatten(0, 2)[:, :SHOWN]))
            kinds.append(kind)
        bad = torch.stack([each for each, _ in wrong])
        cell = bad.to(torch.uint8).argmax(1)
        when = torch.where(bad.any(1), self.iteration * self.cells + cell, NEVER)
        shown = []
        for index, (_, rows) in enumerate(wrong):
            row = rows.index_select(0, cell[index : index + 1]).float()
            shown.append(functional.pad(row, (0, SHOWN - row.shape[1])))
            self.widths[kinds[index]] = rows.shape[1]
        # A rollout without masks has no suspect of the first kind; all the others are there always.
        first, values = self.first[-len(kinds) :], self.values[-len(kinds) :]
        values.copy_(torch.where((when < first).unsqueeze(1), torch.cat(shown), values))
        first.copy_(torch.minimum(first, when))
        self.iteration.add_(1)

    def raise_first(self) -> None:
        """Say what went wrong first, if anything did; one host synchronisation.

        Raises:
            RunError: with the seed, the environment and the step.
        """
        found = self.first.tolist()
        if min(found) == NEVER:
            return
        # Of one iteration, by kind: a fault is the cause of those of the kinds behind it.
        index = min((when // self.cells, kind) for kind, when in enumerate(found) if when != NEVER)[1]
        iteration, cell = divmod(found[index], self.cells)
        time, row = divmod(cell, len(self.seeds) * self.num_envs)
        member, env = divmod(row, self.num_envs)
        step = self.first_step + iteration * self.steps_per_iteration + time * self.num_envs + env
        kind = KINDS[index]
        values: list[float] = self.values[index, : self.widths[kind]].tolist()
        where: dict[str, Any] = {"env": env, "seed": self.seeds[member], "step": step}
        if kind == "mask":
            raise nothing_allowed(group=int(values[0]), **where)
        raise not_finite(kind.removeprefix("first "), values, **where)


def _suspects(
    rollout: Transition,
) -> Iterator[tuple[str, Bool[Tensor, "time member env"], Float[Tensor, "time member env shown"]]]:
    """Yield each kind that a rollout can have, where it has it, and what to show of it."""
    if rollout.mask is not None:
        empty = ~rollout.mask.any(-1)
        yield "mask", empty.any(-1), empty.to(torch.uint8).argmax(-1, keepdim=True)
    seen = (rollout.final_observation, rollout.reward.unsqueeze(-1), rollout.observation)
    for kind, values in zip(KINDS[1:], seen, strict=True):
        yield kind, ~values.isfinite().all(-1), values


def faults_of(trainer: Any) -> Faults:
    """Return what notes the faults of a loop from its next iteration on."""
    config = trainer.agent.config
    faults = Faults(
        trainer.seeds,
        trainer.num_envs,
        config.rollout_steps,
        steps_per_iteration=trainer.steps_per_iteration,
        device=trainer.env.device,
    )
    faults.start(trainer.step)
    return faults
