"""`GumbelTD3` and `GumbelDDPG` as SB3 algorithms for discrete actions; losses of `gumbelrl.agents.td3` and `ddpg`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from gumbelrl.agents.sb3.algorithm import LEARNING_RATE, Batch, Temperature
from gumbelrl.agents.sb3.entropy import GumbelEntropyAlgorithm
from gumbelrl.agents.sb3.policy import GumbelPolicy
from gumbelrl.agents.td3 import smooth


class GumbelTD3(GumbelEntropyAlgorithm):
    """TD3 with two critics, a delayed actor and a smoothed target policy; see `gumbelrl.agents.td3`.

    Arguments that are not listed are as in `GumbelEntropyAlgorithm`, `GumbelOffPolicyAlgorithm` and SB3's `TD3`. The
    bonus for entropy is in the actor's loss alone, not in the value; `ent_coef=0.0` is none.

    Args:
        policy_delay: updates of the critics for each of the actor and the targets.
        smoothing: share of the target policy that is uniform over the valid actions; in the place of SB3's
            `target_policy_noise`.

    Reference: Fujimoto, van Hoof & Meger 2018, arXiv:1802.09477.
    """

    has_target_actor = True

    def __init__(
        self,
        policy: str | type[GumbelPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = LEARNING_RATE,
        buffer_size: int = 10_000,
        learning_starts: int = 1000,
        batch_size: int = 128,
        tau: float = 0.1,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int | None = None,
        policy_delay: int = 2,
        smoothing: float = 0.02,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        ent_coef_rate: float = 0.01,
        estimator: str = "gumbel",
        temperature: Temperature = 1.0,
        critic: str = "linear",
        baseline: str = "mean-action",
        num_samples: int | None = None,
        critic_rate_factor: float = 2.0,
        exploration_rate: float | Callable[[float], float] = 0.0,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            critic_rate_factor=critic_rate_factor,
            action_noise=action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            optimize_memory_usage=optimize_memory_usage,
            n_steps=n_steps,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            ent_coef_rate=ent_coef_rate,
            estimator=estimator,
            temperature=temperature,
            critic=critic,
            baseline=baseline,
            num_samples=num_samples,
            exploration_rate=exploration_rate,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        self.policy_delay, self.smoothing = policy_delay, smoothing
        if _init_setup_model:
            self._setup_model()

    def _check(self) -> None:
        super()._check()
        if self.policy_delay < 1:
            raise ValueError(f"policy_delay must be at least 1, got {self.policy_delay}")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must be between 0 and 1, got {self.smoothing}")

    def actor_is_due(self) -> bool:
        """Say whether this update moves the actor and the targets: once in `policy_delay`."""
        return self._n_updates % self.policy_delay == 0

    @torch.no_grad()
    def next_value(self, batch: Batch) -> Float[Tensor, "1 batch"]:
        assert self.actor_target is not None
        policy = self.actor_target(batch.next_observation, batch.next_mask)
        if self.smoothing:
            policy = smooth(policy, self.smoothing)
        return self.critic_target(batch.next_observation).expected_lowest(policy, None)


class GumbelDDPG(GumbelTD3):
    """DDPG: `GumbelTD3` with one critic, no delay and no smoothing, as SB3's `DDPG` is to its `TD3`.

    Reference: Lillicrap et al. 2015, arXiv:1509.02971.
    """

    default_policy_kwargs: ClassVar[dict[str, Any]] = {"n_critics": 1}

    def __init__(
        self,
        policy: str | type[GumbelPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = LEARNING_RATE,
        *,
        tau: float = 0.05,
        **arguments: Any,
    ) -> None:
        super().__init__(policy, env, learning_rate, **{"policy_delay": 1, "smoothing": 0.0, "tau": tau, **arguments})
