"""Tianshou's DiscreteSAC on CartPole-v1 with the settings of its own test of it.

Settings: https://github.com/thu-ml/tianshou, test/discrete/test_discrete_sac.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from record import Recorder, options
from tianshou.algorithm.modelfree.discrete_sac import DiscreteSAC, DiscreteSACPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic

NUM_ENVS, HIDDEN, BATCH, UPDATES_PER_STEP = 10, [64, 64], 64, 0.1


class Stop(Exception):
    """Raised to leave a training loop that has no other way out."""


class Returns(gym.Wrapper):
    """Tells the recorder the return of each episode."""

    def __init__(self, env: gym.Env, recorder: Recorder) -> None:
        super().__init__(env)
        self.recorder, self.total = recorder, 0.0

    def reset(self, **kwargs: Any) -> Any:
        self.total = 0.0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.total += float(reward)
        if terminated or truncated:
            self.recorder.episodes([self.total])
        return observation, reward, terminated, truncated, info


def make_algorithm(env: gym.Env) -> DiscreteSAC:
    observations, choices = env.observation_space.shape, int(env.action_space.n)
    actor = DiscreteActor(
        preprocess_net=Net(state_shape=observations, hidden_sizes=HIDDEN), action_shape=choices, softmax_output=False
    )
    critics = [
        DiscreteCritic(preprocess_net=Net(state_shape=observations, hidden_sizes=HIDDEN), last_size=choices)
        for _ in range(2)
    ]
    return DiscreteSAC(
        policy=DiscreteSACPolicy(actor=actor, action_space=env.action_space),
        policy_optim=AdamOptimizerFactory(lr=1e-4),
        critic=critics[0],
        critic_optim=AdamOptimizerFactory(lr=1e-3),
        critic2=critics[1],
        critic2_optim=AdamOptimizerFactory(lr=1e-3),
        tau=0.005,
        gamma=0.95,
        alpha=0.05,
        n_step_return_horizon=3,
    )


def main() -> None:
    words, recorder = options(["sac"])
    torch.set_num_threads(1)
    np.random.seed(words.seed)  # noqa: NPY002 (what Tianshou draws from)
    torch.manual_seed(words.seed)
    envs = DummyVectorEnv([lambda: Returns(gym.make("CartPole-v1"), recorder) for _ in range(NUM_ENVS)])
    envs.seed(words.seed)
    algorithm = make_algorithm(gym.make("CartPole-v1"))
    collector = Collector(algorithm, envs, VectorReplayBuffer(20_000, NUM_ENVS))

    def watch(epoch: int, step: int) -> None:
        if not recorder.mark(step, int(step * UPDATES_PER_STEP)):
            raise Stop

    parameters = OffPolicyTrainerParams(
        training_collector=collector,
        max_epochs=5,
        epoch_num_steps=10_000,
        collection_step_num_env_steps=NUM_ENVS,
        batch_size=BATCH,
        update_step_num_gradient_steps_per_sample=UPDATES_PER_STEP,
        training_fn=watch,
        verbose=False,
        show_progress=False,
    )
    with suppress(Stop):
        algorithm.run_training(parameters)
    recorder.finish(["tianshou", "torch", "gymnasium"])


if __name__ == "__main__":
    main()
