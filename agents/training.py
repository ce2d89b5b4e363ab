"""The loop: collect a rollout, learn from it, again. One iteration has fixed shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.base import Agent
from gumbelrl.agents.distributed.group import ALONE, Group
from gumbelrl.agents.episodes import EpisodeStatistics
from gumbelrl.agents.faults import Faults, faults_of, not_finite, nothing_allowed
from gumbelrl.agents.host_memory import keep_freed_memory
from gumbelrl.agents.perception.observations import action_mask, to_features
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.rollout import Transition, stack_rollout
from gumbelrl.envs import BatchedEnv, Step
from gumbelrl.policies import ActionLayout
from gumbelrl.random import derive_seed


def env_seeds(seeds: tuple[int, ...], num_envs: int, purpose: str, *, first: int = 0) -> list[int]:
    """Return a seed for each environment, members in order; a member's depend on its own seed only.

    Args:
        first: the number of the first environment of each member.
    """
    return [derive_seed(seed, purpose, first + index) for seed in seeds for index in range(num_envs)]


class Trainer:
    """An agent and its environments: `members × num_envs` of them, members in order.

    Args:
        temperature: the temperature, of all members or `[member]`, as a function of (progress in [0, 1], steps taken).
        total_steps: environment steps of each member over the whole run.
        group: the processes that have the environments between them; `env` holds this one's, `agent` is of the same
            group. Steps and statistics are of all environments.
    """

    def __init__(
        self,
        agent: Agent,
        env: BatchedEnv,
        *,
        seeds: tuple[int, ...],
        total_steps: int,
        temperature: Callable[[float, int], float | Tensor],
        group: Group = ALONE,
    ) -> None:
        keep_freed_memory()
        self.group = group
        self.agent, self.env, self.seeds, self.temperature = agent, env, seeds, temperature
        self.total_steps, self.step = total_steps, 0
        self.num_members, self.num_envs = len(seeds), agent.config.num_envs
        self.steps_per_iteration = self.num_envs * group.size * agent.config.rollout_steps
        self.statistics = EpisodeStatistics(self.num_members, self.num_envs * group.size, device=env.device)
        self.faults: Faults | None = faults_of(self) if env.device.type == "cuda" else None
        self.perception = agent.perception or Perception()
        self.memory = self.perception.initial(self.num_envs)
        first = group.rank * self.num_envs
        observation = env.reset(env_seeds(seeds, self.num_envs, "environment", first=first))
        self.observation = self._features(observation)
        self.mask = split_mask(agent.layout, action_mask(observation, env.info), self.num_members)

    def _members(self, rows: Tensor) -> Tensor:
        """[member·env, ...] -> [member, env, ...]."""
        return rows.unflatten(0, (self.num_members, self.num_envs))

    def _features(self, observation: Any) -> Float[Tensor, "member env feature"]:
        return self._members(to_features(self.env.single_observation_space, observation))

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps

    def iterate(self) -> dict[str, Tensor]:
        """Collect one rollout and learn from it; return metrics, each `[member, ...]`, still on the device.

        They are to be read before the next iteration, which may write its own into the same tensors.
        """
        progress = min(self.step / self.total_steps, 1.0)
        self.agent.set_progress(progress, temperature=self.temperature(progress, self.step))
        rollout, metrics = self.work()
        interval = self.agent.config.diagnostics_interval
        if interval and (self.step // self.steps_per_iteration) % interval == 0:
            metrics |= self.agent.diagnose(rollout)
        self.step += self.steps_per_iteration
        return metrics

    def work(self) -> tuple[Transition, dict[str, Tensor]]:
        """Collect a rollout and learn from it; return both it and metrics: all that an iteration does on the device."""
        rollout = self.collect()
        self._check(rollout)
        metrics = self.agent.update(rollout)
        metrics["train/return"], metrics["train/length"] = self.statistics.means()
        metrics["train/episodes"] = self.statistics.count
        return rollout, metrics

    @torch.no_grad()
    def collect(self) -> Transition:
        noise = self.agent.rollout_noise()
        gate_noise = self.perception.noise(len(noise), self.num_envs)
        steps = [
            self._act(noise_t, None if gate_noise is None else gate_noise[t], t) for t, noise_t in enumerate(noise)
        ]
        rollout = stack_rollout(steps)
        ended = rollout.terminated | rollout.truncated
        self.statistics.record(*self.group.joined(rollout.reward, ended, dim=2))
        return rollout

    def _act(self, noise: Float[Tensor, "member env group choice"], gate_noise: Tensor | None, t: int) -> Transition:
        observation, mask, memory = self.observation, self.mask, self.memory
        if mask is not None:
            self._check_mask(mask, t)
        features, remembered = self.perception(observation, memory, gate_noise)
        logits, action, taken = self.choose(features, mask, noise)
        self.observation, self.mask, seen = self.see(self.env.step(taken))
        self.memory = forget(remembered, seen["terminated"] | seen["truncated"])
        return Transition(
            observation=observation,
            logits=logits,
            action=action,
            mask=mask,
            memory=memory,
            gate_noise=gate_noise,
            **seen,
        )

    def choose(self, features: Tensor, mask: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Return the logits of the policy, the one-hot action that the noise decides, and what the environment takes.

        Args:
            features: `[member, env, feature]`.
            mask: `[member, env, group, choice]`.
            noise: likewise, of `Agent.rollout_noise`.
        """
        policy = self.agent.policy(features, mask)
        action = policy.sample(noise=noise)
        return policy.logits, action, self.agent.layout.from_one_hot(action.flatten(0, 1))

    def see(self, step: Step) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
        """Return the observation and the mask after a step, and the columns of a `Transition` that come from it."""
        layout = self.agent.layout
        mask = split_mask(layout, action_mask(step.observation, step.info), self.num_members)
        final_mask = action_mask(step.final_observation, step.info, final=True)
        seen = {
            "reward": self._members(step.reward),
            "terminated": self._members(step.terminated),
            "truncated": self._members(step.truncated),
            "final_observation": self._features(step.final_observation),
            "final_mask": mask if final_mask is None else split_mask(layout, final_mask, self.num_members),
        }
        return self._features(step.observation), mask, seen

    def _check(self, rollout: Transition) -> None:
        """Refuse to learn from what is not finite; one host synchronisation an iteration, or none: see `Faults`."""
        if self.faults is not None:
            self.faults.record(rollout)
            return
        total = rollout.final_observation.sum() + rollout.observation.sum() + rollout.reward.sum()
        if math.isfinite(total.item()):  # otherwise look closely: finite numbers may have an infinite sum
            return
        seen = (
            ("observation", rollout.final_observation),
            ("reward", rollout.reward),
            ("observation", rollout.observation),  # of a reset
        )
        for name, values in seen:
            finite = values.isfinite()
            if not bool(finite.all()):
                time, member, env = (int(i) for i in (~finite).nonzero()[0, :3])
                first = values[time, member, env].flatten()[:8].tolist()
                step = self.step + time * self.num_envs + env
                raise not_finite(name, first, env=env, seed=self.seeds[member], step=step)

    def _check_mask(self, mask: Bool[Tensor, "member env group choice"], t: int) -> None:
        if self.faults is not None:
            return  # with the rollout
        empty = ~mask.any(-1)
        if bool(empty.any()):
            member, env, group = (int(i) for i in empty.nonzero()[0])
            step = self.step + t * self.num_envs + env
            raise nothing_allowed(group=group, env=env, seed=self.seeds[member], step=step)

    def raise_faults(self) -> None:
        """Raise what was wrong in the iterations so far, where they did not wait for it.

        Raises:
            RunError: an observation or a reward was not finite, or a mask allowed nothing.
        """
        if self.faults is not None:
            self.faults.raise_first()

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state_dict(),
            "environment": self.env.state_dict(),
            "statistics": self.statistics.state_dict(),
            "observation": self.observation,
            "mask": self.mask,
            "memory": self.memory,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.env.load_state_dict(state["environment"])
        self.statistics.load_state_dict(state["statistics"])
        self.observation, self.mask, self.step = state["observation"], state["mask"], state["step"]
        self.memory = state.get("memory")
        if self.faults is not None:
            self.faults.start(self.step)


def split_mask(
    layout: ActionLayout, mask: Tensor | None, num_members: int
) -> Bool[Tensor, "member env group choice"] | None:
    """Return the mask that an environment gave, in the layout's shape, or None where it gave none."""
    if mask is None:
        return None
    merged = layout.merge_mask(mask)
    assert merged is not None
    return merged.unflatten(0, (num_members, -1))


def forget(memory: Tensor | None, ended: Bool[Tensor, "member env"]) -> Float[Tensor, "member env unit"] | None:
    """Return the memory with zeros where an episode ended."""
    return None if memory is None else memory * ~ended.unsqueeze(-1)
