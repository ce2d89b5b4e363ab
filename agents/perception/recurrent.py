"""Memory: a gated recurrent unit a member, whose gates may be discrete.

    z, r = gate(W_z x + U_z h + b_z), gate(W_r x + U_r h + b_r)
    n    = tanh(W_n x + b_n + r ∘ U_n h)
    h'   = z ∘ h + (1 − z) ∘ n

A unit whose keep gate z is 1 holds its value, not almost but exactly, and its gradient passes unchanged: with discrete
gates nothing decays over a delay, however long, and what is held is decided at every step. See `policies/gates.py` for
how a gradient passes such a gate.

The biases of the keep gates start as log u, u uniform on (1, horizon − 1): without input a unit then keeps its value
for about u steps, so that delays of every length up to the horizon are covered at the start (chrono initialisation).

Two things that discrete gates need and a sigmoid does not. Their logits are multiplied by `SHARPNESS`, so that they
start decided, rather than as coins that overwrite at random, and can be turned round within some hundreds of steps of
Adam. And their horizon has to be much longer than the delay: after u steps a sampled gate has kept its value with a
probability of e^−1 only, and what was overwritten is gone, not faded.

Learning replays a rollout from the memory that was stored at its first step, with the gates' noise that acted, and goes
back through all of its steps but not beyond (back-propagation through time, truncated at the rollout). What has to be
remembered for longer than `rollout_steps` is learned badly.

References: Cho et al. 2014, arXiv:1406.1078, with the reset after the product as in cuDNN and torch.nn.GRU, which is
the same as this one with `sigmoid` gates and no hidden bias; Tallec & Ollivier 2018, arXiv:1804.11188, section 2.1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.networks import StackedLinear, orthogonal
from gumbelrl.policies.gates import GATES, SAMPLED_GATES, gate, logistic_noise
from gumbelrl.random import RandomStreams

# Of discrete gates. `gumbel`, three seeds, a delay of 10: input weights as large as this makes them return .96 after
# 40,000 steps at 5 times the ordinary size, .9 at 3 times, .63 at 1; a delay of 100 is learned with 8.
SHARPNESS = 8.0


class RecurrentCore(nn.Module):
    """Turns observations into features: the observation beside what is remembered after it.

    Args:
        streams: one a member, for the initial weights.
        noise_streams: one a member, for the gates in training.
        num_inputs: length of an observation vector.
        size: units, the length of a memory.
        kind: of gate, a name in `GATES`.
        horizon: steps that a unit keeps its value, at most, before it has learned to; at least 3.
        temperature: of the backward pass of `gumbel` gates.

    Raises:
        RunError: no gate has that name, or a number is out of its range.
    """

    def __init__(
        self,
        streams: RandomStreams,
        noise_streams: RandomStreams,
        num_inputs: int,
        *,
        size: int = 32,
        kind: str = "sigmoid",
        horizon: int = 1000,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        check_memory(kind, size=size, horizon=horizon, temperature=temperature)
        self.kind, self.size, self.temperature = kind, size, temperature
        self.streams = noise_streams
        self.num_features = num_inputs + size
        self.sharpness = 1.0 if kind == "sigmoid" else SHARPNESS
        self.inputs = StackedLinear(streams, num_inputs, 3 * size, gain=math.sqrt(max(1.0, 3 * size / num_inputs)))
        gains = (0.0, 0.0, 1.0)  # keep, reset, candidate: at first the gates depend on what is seen alone
        self.recurrent = nn.Parameter(torch.cat([orthogonal(streams, size, size, gain) for gain in gains], dim=2))
        with torch.no_grad():
            kept = 1.0 + (horizon - 2.0) * streams.uniform(size)
            self.inputs.bias[:, 0, :size] = torch.log(kept) / self.sharpness

    def initial(self, batch: int) -> Float[Tensor, "member batch unit"]:
        """Return the memory at the start of an episode: zeros."""
        return torch.zeros(self.streams.rows, batch, self.size, device=self.streams.device)

    def noise(
        self, time: int, batch: int, *, generator: RandomStreams | None = None
    ) -> Float[Tensor, "time member batch gate"] | None:
        """Return the noise of the gates for some steps, or None for gates that take none.

        Args:
            generator: one stream a member; those of training where none is given.
        """
        if self.kind not in SAMPLED_GATES:
            return None
        drawn = logistic_noise((time, batch, 2 * self.size), generator=generator or self.streams, divided=1)
        return drawn.transpose(0, 1)

    def forward(
        self,
        observation: Float[Tensor, "member batch feature"],
        memory: Float[Tensor, "member batch unit"],
        noise: Float[Tensor, "member batch gate"] | None = None,
    ) -> tuple[Float[Tensor, "member batch feature+unit"], Float[Tensor, "member batch unit"]]:
        """Return the features of an observation and the memory after it; without noise, the likelier gates."""
        memory = self._step(self.inputs(observation), memory, noise)
        return torch.cat([observation, memory], dim=-1), memory

    def replay(
        self,
        observation: Float[Tensor, "time member batch feature"],
        memory: Float[Tensor, "member batch unit"],
        first: Bool[Tensor, "time member batch"],
        noise: Float[Tensor, "time member batch gate"] | None,
    ) -> Float[Tensor, "time member batch unit"]:
        """Return the memory after each observation of a sequence.

        Args:
            memory: before the first observation.
            first: the observation is the first of an episode, so that the memory before it is empty.
            noise: of the gates, as they acted.
        """
        goes_on = (~first).to(observation.dtype).unsqueeze(-1)
        noises = [None] * len(observation) if noise is None else noise.unbind(0)
        memories = []
        for inputs, carried, noise_t in zip(self.inputs(observation).unbind(0), goes_on, noises, strict=True):
            memory = self._step(inputs, memory * carried, noise_t)
            memories.append(memory)
        return torch.stack(memories)

    def _step(self, inputs: Tensor, memory: Tensor, noise: Tensor | None) -> Float[Tensor, "member batch unit"]:
        size = self.size
        recalled = torch.bmm(memory, self.recurrent)
        logits = inputs[..., : 2 * size] + recalled[..., : 2 * size]
        keep, reset = gate(self.kind, self.sharpness * logits, noise, self.temperature).split(size, dim=-1)
        candidate = torch.tanh(torch.addcmul(inputs[..., 2 * size :], reset, recalled[..., 2 * size :]))
        return torch.lerp(candidate, memory, keep)


def check_memory(kind: str, *, size: int, horizon: int, temperature: float) -> None:
    """Check the settings of a core.

    Raises:
        RunError: no gate has that name, or a number is out of its range.
    """
    choose("gate", kind, GATES)
    if size < 1 or horizon < 3 or not 0 < temperature < math.inf:
        raise RunError(
            "a memory needs memory_size of at least 1, memory_horizon of at least 3 and a gate_temperature above 0 "
            f"and finite, got {size}, {horizon} and {temperature}"
        )
