"""`GumbelSAC`: soft actor-critic for discrete actions as an SB3 algorithm; the losses of `gumbelrl.agents.sac`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from gumbelrl.agents.critics import EnsembleValue
from gumbelrl.agents.sb3.algorithm import LEARNING_RATE, Batch, Temperature
from gumbelrl.agents.sb3.entropy import GumbelEntropyAlgorithm
from gumbelrl.agents.sb3.policy import GumbelPolicy
from gumbelrl.policies import CategoricalPolicy, Value


class GumbelSAC(GumbelEntropyAlgorithm):
    """Soft actor-critic; see `gumbelrl.agents.sac` for what the critics are fitted to and what the actor climbs.

    Arguments are those of `GumbelEntropyAlgorithm`, of `GumbelOffPolicyAlgorithm` and of SB3's `SAC`.

    Reference: Haarnoja et al. 2018, arXiv:1812.05905; Christodoulou 2019, arXiv:1910.07207.
    """

    needs_entropy = True

    def __init__(
        self,
        policy: str | type[GumbelPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = LEARNING_RATE,
        buffer_size: int = 10_000,
        learning_starts: int = 1000,
        batch_size: int = 128,
        tau: float = 0.05,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int | None = None,
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
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            ent_coef_rate=ent_coef_rate,
            _init_setup_model=_init_setup_model,
        )

    @torch.no_grad()
    def next_value(self, batch: Batch) -> Float[Tensor, "1 batch"]:
        policy = self.actor(batch.next_observation, batch.next_mask)
        value = self.critic_target(batch.next_observation).expected_lowest(policy, None)
        return value + self.log_ent_coef.exp() * policy.entropy()

    def climbed_value(self, value: EnsembleValue, policy: CategoricalPolicy) -> Value:
        """Return the lower of the critics."""
        return value.lowest(policy.probs)
