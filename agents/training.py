"""The loop: collect a rollout, learn from it, again. One iteration has fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.agents.base import Agent
from gumbelrl.agents.episodes import EpisodeStatistics
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.perception.observations import action_mask, to_features
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.rollout import Transition, stack_rollout
from gumbelrl.envs import BatchedEnv
from gumbelrl.policies import ActionLayout
from gumbelrl.random import derive_seed


def env_seeds(seeds: tuple[int, ...], num_envs: int, purpose: str) -> list[int]:
    """Return a seed for each environment, members in order; a member's depend on its own seed only."""
    return [derive_seed(seed, purpose, index) for seed in seeds for index in range(num_envs)]


class Trainer:
    """An agent and its environments: `members × num_envs` of them, members in order.

    Args:
        temperature: the temperature, of all members or `[member]`, as a function of (progress in [0, 1], steps taken).
        total_steps: environment steps of each member over the whole run.
    """

    def __init__(
        self,
        agent: Agent,
        env: BatchedEnv,
        *,
        seeds: tuple[int, ...],
        total_steps: int,
        temperature: Callable[[float, int], float | Tensor],
    ) -> None:
        self.agent, self.env, self.seeds, self.temperature = agent, env, seeds, temperature
        self.total_steps, self.step = total_steps, 0
        self.num_members, self.num_envs = len(seeds), agent.config.num_envs
        self.steps_per_iteration = self.num_envs * agent.config.rollout_steps
        self.statistics = EpisodeStatistics(self.num_members, self.num_envs, device=env.device)
        self.perception = agent.perception or Perception()
        self.memory = self.perception.initial(self.num_envs)
        observation = env.reset(env_seeds(seeds, self.num_envs, "environment"))
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
        """Collect one rollout and learn from it; return metrics, each `[member, ...]`, still on the device."""
        progress = min(self.step / self.total_steps, 1.0)
        self.agent.set_progress(progress, temperature=self.temperature(progress, self.step))
        rollout = self.collect()
        self._check(rollout)
        metrics = self.agent.update(rollout)
        interval = self.agent.config.diagnostics_interval
        if interval and (self.step // self.steps_per_iteration) % interval == 0:
            metrics |= self.agent.diagnose(rollout)
        self.step += self.steps_per_iteration
        metrics["train/return"], metrics["train/length"] = self.statistics.means()
        metrics["train/episodes"] = self.statistics.count
        return metrics

    @torch.no_grad()
    def collect(self) -> Transition:
        noise = self.agent.rollout_noise()
        gate_noise = self.perception.noise(len(noise), self.num_envs)
        steps = [
            self._act(noise_t, None if gate_noise is None else gate_noise[t], t) for t, noise_t in enumerate(noise)
        ]
        rollout = stack_rollout(steps)
        self.statistics.record(rollout.reward, rollout.terminated | rollout.truncated)
        return rollout

    def _act(self, noise: Float[Tensor, "member env group choice"], gate_noise: Tensor | None, t: int) -> Transition:
        observation, mask, memory, layout = self.observation, self.mask, self.memory, self.agent.layout
        if mask is not None:
            self._check_mask(mask, t)
        features, remembered = self.perception(observation, memory, gate_noise)
        policy = self.agent.policy(features, mask)
        action = policy.sample(noise=noise)
        step = self.env.step(layout.from_one_hot(action.flatten(0, 1)))
        terminated, truncated = self._members(step.terminated), self._members(step.truncated)
        self.observation = self._features(step.observation)
        self.mask = split_mask(layout, action_mask(step.observation, step.info), self.num_members)
        self.memory = forget(remembered, terminated | truncated)
        final_mask = action_mask(step.final_observation, step.info, final=True)
        return Transition(
            observation=observation,
            logits=policy.logits,
            action=action,
            reward=self._members(step.reward),
            terminated=terminated,
            truncated=truncated,
            final_observation=self._features(step.final_observation),
            mask=mask,
            final_mask=self.mask if final_mask is None else split_mask(layout, final_mask, self.num_members),
            memory=memory,
            gate_noise=gate_noise,
        )

    def _check(self, rollout: Transition) -> None:
        """Refuse to learn from what is not finite; one host synchronisation an iteration."""
        total = rollout.final_observation.sum() + rollout.observation.sum() + rollout.reward.sum()
        if bool(total.isfinite()):  # otherwise look closely: finite numbers may have an infinite sum
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
                raise RunError(
                    f"{name} is not finite ({values[time, member, env].flatten()[:8].tolist()}) in environment {env} "
                    f"of seed {self.seeds[member]}, at step {self.step + time * self.num_envs + env} of that member"
                )

    def _check_mask(self, mask: Bool[Tensor, "member env group choice"], t: int) -> None:
        empty = ~mask.any(-1)
        if bool(empty.any()):
            member, env, group = (int(i) for i in empty.nonzero()[0])
            raise RunError(
                f"no action is allowed in environment {env} of seed {self.seeds[member]} (group {group} of its action "
                f"mask is all False) at step {self.step + t * self.num_envs + env} of that member: an environment must "
                "allow at least one action in every state"
            )

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
