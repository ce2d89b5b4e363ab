"""What comes before an agent's networks, step by step: normalisation, and memory of the steps before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.perception.normalisation import ObservationNormaliser
from gumbelrl.agents.perception.recurrent import RecurrentCore
from gumbelrl.agents.rollout import Transition
from gumbelrl.random import RandomStreams


class Perception(nn.Module):
    """Turns an observation and a memory into features and the next memory; with neither part, hands observations on.

    The loop calls it before `Agent.policy`, at every step; the agent calls `replay` to learn from a rollout.

    Args:
        normaliser: of observations.
        core: that remembers; its parameters are the agent's to train.
    """

    def __init__(self, normaliser: ObservationNormaliser | None = None, core: RecurrentCore | None = None) -> None:
        super().__init__()
        self.normaliser, self.core = normaliser, core

    def num_features(self, num_inputs: int) -> int:
        """Return the length of the features of observations of that length."""
        return num_inputs if self.core is None else self.core.num_features

    def initial(self, batch: int) -> Float[Tensor, "member batch unit"] | None:
        """Return the memory at the start of an episode, or None without one."""
        return None if self.core is None else self.core.initial(batch)

    def noise(self, time: int, batch: int, *, generator: RandomStreams | None = None) -> Tensor | None:
        """Return `[time, member, batch, gate]`, the noise of discrete gates for some steps, or None without any."""
        return None if self.core is None else self.core.noise(time, batch, generator=generator)

    def forward(
        self, observation: Float[Tensor, "member batch feature"], memory: Tensor | None, noise: Tensor | None = None
    ) -> tuple[Float[Tensor, "member batch feature"], Tensor | None]:
        """Return the features and the memory after the observation; without noise, gates take the likelier value."""
        seen = observation if self.normaliser is None else self.normaliser(observation)
        if self.core is None:
            return seen, None
        assert memory is not None
        return self.core(seen, memory, noise)

    # Learning -------------------------------------------------------------------------------------------------------

    def normalised(self, rollout: Transition) -> Transition:
        """Return a rollout whose observations are normalised by the statistics that acted."""
        if self.normaliser is None:
            return rollout
        return replace(
            rollout,
            observation=self.normaliser(rollout.observation),
            final_observation=self.normaliser(rollout.final_observation),
        )

    def merge(self, rollout: Transition) -> None:
        """Add a rollout's observations to the statistics: after learning, which needs those that acted."""
        if self.normaliser is not None:
            self.normaliser.merge(rollout.observation)

    def final_features(self, rollout: Transition) -> Float[Tensor, "time member env feature"]:
        """Return the features of the observations that the steps of a normalised rollout led to; no gradient."""
        if self.core is None:
            return rollout.final_observation
        with torch.no_grad():
            memory = self._memories(_sequences(rollout, {"observation": rollout.observation}))
            # The gates that acted on the next observation; any others would do after the last.
            noise = None if rollout.gate_noise is None else rollout.gate_noise.roll(-1, dims=0)
            columns = (rollout.final_observation, memory, noise)
            folded = [None if column is None else column.transpose(0, 1).flatten(1, 2) for column in columns]
            features, _ = self.core(*folded)
        time, _, env, _ = memory.shape
        return features.unflatten(1, (time, env)).transpose(0, 1)

    def rows(self, rollout: Transition, **more: Tensor) -> dict[str, Tensor]:
        """Return the columns that learning needs, and `more`, in rows to be shuffled and cut, `[member, row, ...]`.

        A row is a step; with a core it is an environment with all of its steps.

        Args:
            rollout: normalised.
            more: columns `[time, member, env, ...]`.
        """
        columns = {"observation": rollout.observation, "logits": rollout.logits, "action": rollout.action, **more}
        if rollout.mask is not None:
            columns["mask"] = rollout.mask
        if self.core is not None:
            return _sequences(rollout, columns)
        return {name: column.transpose(0, 1).flatten(1, 2) for name, column in columns.items()}

    def replay(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch of steps, `[member, env·time, ...]`, whose `observation` is features, from one of sequences.

        Args:
            batch: columns `[member, env, time, ...]`, some of the `rows`; without a core, steps already.
        """
        if self.core is None:
            return batch
        memory = self._memories(batch).permute(1, 2, 0, 3)
        steps = {name: column for name, column in batch.items() if name not in ("memory", "first", "gate_noise")}
        steps["observation"] = torch.cat([batch["observation"], memory], dim=-1)
        return {name: column.flatten(1, 2) for name, column in steps.items()}

    def _memories(self, batch: dict[str, Tensor]) -> Float[Tensor, "time member env unit"]:
        assert self.core is not None
        noise = batch.get("gate_noise")
        return self.core.replay(
            batch["observation"].permute(2, 0, 1, 3),
            batch["memory"],
            batch["first"].permute(2, 0, 1),
            None if noise is None else noise.permute(2, 0, 1, 3),
        )

    # State ----------------------------------------------------------------------------------------------------------

    def saved(self) -> dict[str, Any]:
        """Return what is not among the agent's parameters: statistics and the streams of the gates' noise."""
        state: dict[str, Any] = {}
        if self.normaliser is not None:
            state["normaliser"] = dict(self.normaliser.state_dict())
        if self.core is not None:
            state["streams"] = self.core.streams.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `saved`."""
        if self.normaliser is not None:
            self.normaliser.load_state_dict(state["normaliser"])
        if self.core is not None:
            self.core.streams.load_state_dict(state["streams"])


def _sequences(rollout: Transition, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return columns of a rollout and what replaying needs, each `[member, env, time, ...]`.

    But `memory` is `[member, env, unit]`, that before the first step; `first` says that an observation begins an
    episode inside the rollout.
    """
    assert rollout.memory is not None
    ended = rollout.terminated | rollout.truncated
    columns = columns | {"first": torch.cat([torch.zeros_like(ended[:1]), ended[:-1]])}
    if rollout.gate_noise is not None:
        columns["gate_noise"] = rollout.gate_noise
    return {name: column.movedim(0, 2) for name, column in columns.items()} | {"memory": rollout.memory[0]}
