"""A callback of stable-baselines3 that moves the temperature and logs what a discrete policy does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from gumbelrl.policies.diagnostics import diagnose
from gumbelrl.policies.sb3.inspection import Inspection
from gumbelrl.policies.sb3.temperature import FollowsSchedule, parse
from gumbelrl.policies.temperature import check_temperature

STATES, DIAGNOSED_STATES, DIAGNOSED_ESTIMATES = 256, 32, 32
MOST_HISTOGRAMS = 8
NOT_TENSORBOARD = ("stdout", "log", "json", "csv")
TOLD = {
    "gradient/bias": "bias",
    "gradient/variance": "variance",
    "gradient/signal_to_noise": "signal_to_noise",
    "gradient/cosine": "cosine",
    "policy/soft_hard_gap": "soft_hard_gap",
}


class GumbelCallback(BaseCallback):
    """Moves the temperature along its schedule and logs, through stable-baselines3's logger:

    `policy/temperature`, `policy/entropy` (nats), `policy/probs` (a histogram, in TensorBoard and from there in Weights
    & Biases), `gradient/norm` (of the last gradient step), and with an estimator `gradient/bias`, `gradient/variance`,
    `gradient/signal_to_noise`, `gradient/cosine` against the exact gradient and `policy/soft_hard_gap`; see
    `gumbelrl.policies.Diagnostics`. States are the last that were seen.

    The temperature changes only between rollouts, so that PPO learns from the policy that acted. Looking at the policy
    draws no number from the generators that training draws from.

    Args:
        temperature: in the place of the policy's own: a number, a schedule such as `linear:1.0:0.1`, or a function of
            the remaining progress, from 1 to 0, as stable-baselines3's schedules are. None for the policy's own.
        interval: environment steps between two looks, at least, for agents with a replay; the others are looked at
            after each rollout.
        diagnostics: measure the estimator too, with 32 estimates in 32 states.

    Raises:
        ValueError: the temperature is not positive or not a schedule, or the interval not positive; when training
            starts: the policy has no head of ours, or SAC's target for the entropy cannot be met.
    """

    def __init__(
        self,
        temperature: float | str | Callable[[float], float] | None = None,
        *,
        interval: int = 1000,
        diagnostics: bool = True,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if interval < 1:
            raise ValueError(f"interval is a number of environment steps, at least 1, got {interval}")
        self.interval, self.diagnostics = interval, diagnostics
        self._function = temperature if callable(temperature) else None
        self._schedule = None if temperature is None or callable(temperature) else parse(temperature)
        self._last_look = -math.inf

    def _init_callback(self) -> None:
        if not (hasattr(self.model, "inspect_last") or hasattr(self.model.policy, "inspect_head")):
            raise ValueError(
                "GumbelCallback looks at the policies of gumbelrl.policies.sb3, and "
                f"{type(self.model.policy).__name__} is none of them: use for example "
                "PPO(GumbelActorCriticPolicy, env), or leave the callback away"
            )
        target, is_learned = getattr(self.model, "target_entropy", None), getattr(self.model, "log_ent_coef", None)
        largest = getattr(self.model.action_space, "largest_entropy", None)
        if largest is not None and is_learned is not None and isinstance(target, float) and not 0 < target < largest:
            raise ValueError(
                f"SAC's target_entropy is {target:g}, which a policy over {self.model.action_space} cannot have: its "
                f"entropy is between 0 and {largest:.3g} nats, and the entropy coefficient would run away; pass "
                "target_entropy=0.3 * env.action_space.largest_entropy"
            )
        if self._schedule is not None and isinstance(self.model.policy, FollowsSchedule):
            self.model.policy.schedule = self._schedule
        self._generator = torch.Generator(self.model.device).manual_seed(0)
        self._last_look = -math.inf

    def _on_rollout_start(self) -> None:
        policy = self.model.policy
        if not isinstance(policy, FollowsSchedule):
            return
        progress = min(self.model.num_timesteps / max(self.model._total_timesteps, 1), 1.0)
        policy.follow_schedule(progress, self.model.num_timesteps)
        if self._function is not None:
            temperature = float(self._function(1.0 - progress))
            check_temperature(temperature)
            policy.set_temperature(temperature)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # PPO's rollouts are long, and each is logged; SAC's are a step or a few.
        is_due = self.num_timesteps - self._last_look >= self.interval
        if not (is_due or hasattr(self.model, "rollout_buffer")):
            return
        look = self._look(STATES)
        if look is None:
            return
        self.logger.record("policy/temperature", look.temperature)
        self.logger.record("policy/entropy", float(look.policy.entropy().mean()))
        self._record_probs(look)
        gradients = [parameter.grad for parameter in look.parameters if parameter.grad is not None]
        if gradients:
            self.logger.record("gradient/norm", float(torch.nn.utils.get_total_norm(gradients)))
        if is_due:
            self._last_look = self.num_timesteps
            if self.diagnostics and look.estimator is not None:
                self._record_diagnostics()

    def _record_probs(self, look: Inspection) -> None:
        probs, mask = look.policy.probs.flatten(0, -3), look.policy.mask
        valid = torch.ones_like(probs, dtype=torch.bool) if mask is None else mask.expand_as(look.policy.probs)
        valid = valid.reshape(probs.shape)
        num_groups = probs.shape[1]
        if num_groups == 1 or num_groups > MOST_HISTOGRAMS:
            self.logger.record("policy/probs", probs[valid], exclude=NOT_TENSORBOARD)
            return
        for group in range(num_groups):
            part = probs[:, group][valid[:, group]]
            self.logger.record(f"policy/probs_of_variable_{group}", part, exclude=NOT_TENSORBOARD)

    def _record_diagnostics(self) -> None:
        look = self._look(DIAGNOSED_STATES)
        assert look is not None
        assert look.estimator is not None
        assert look.value is not None
        found = diagnose(
            look.estimator,
            look.policy.logits,
            look.value,
            temperature=look.temperature,
            mask=look.policy.mask,
            generator=self._generator,
            num_estimates=DIAGNOSED_ESTIMATES,
        )
        for name, attribute in TOLD.items():
            self.logger.record(name, float(getattr(found, attribute).mean()))

    @torch.no_grad()
    def _look(self, count: int) -> Inspection | None:
        """Return the policy in the last states; None before there are any."""
        model: Any = self.model
        if hasattr(model, "inspect_last"):
            return model.inspect_last(count)
        observation = self._last_observations(count)
        return None if observation is None else model.policy.inspect_head(observation)

    def _last_observations(self, count: int) -> Tensor | dict[str, Tensor] | None:
        """Return the last states of the rollout or the replay, as the policy sees them; None before there are any."""
        model: Any = self.model
        on_policy = hasattr(model, "rollout_buffer")
        buffer = model.rollout_buffer if on_policy else model.replay_buffer
        num_rows = -(-count // buffer.n_envs)
        # A replay that has just begun anew at its start has little before `pos`; then fewer states are looked at.
        end = buffer.pos or (buffer.buffer_size if buffer.full else 0)
        start = max(end - num_rows, 0)
        if start == end:
            return None

        def rows(stored: Any) -> Any:
            return stored[start:end].reshape(-1, *stored.shape[2:])[-count:]

        stored = buffer.observations
        observation = {name: rows(part) for name, part in stored.items()} if isinstance(stored, dict) else rows(stored)
        if not on_policy and model._vec_normalize_env is not None:
            # The replay holds what the environment gave; the rollout what the policy saw.
            observation = model._vec_normalize_env.normalize_obs(observation)
        return obs_as_tensor(observation, model.device)
