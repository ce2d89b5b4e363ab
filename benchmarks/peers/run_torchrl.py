"""TorchRL's DiscreteSACLoss on CartPole-v1 with the settings of its own implementation of discrete SAC.

Settings: https://github.com/pytorch/rl, sota-implementations/discrete_sac/config.yaml, without the logging.
"""

from __future__ import annotations

import torch
from record import options
from tensordict.nn import InteractionType, TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import Composite, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import Compose, DoubleToFloat, InitTracker, RewardSum, StepCounter, TransformedEnv
from torchrl.envs.libs.gym import GymEnv
from torchrl.modules import MLP, OneHotCategorical, ProbabilisticActor
from torchrl.objectives import SoftUpdate
from torchrl.objectives.sac import DiscreteSACLoss

TOTAL, FRAMES, BATCH, HIDDEN, RATE = 25_000, 500, 256, (256, 256), 3e-4


def main() -> None:
    words, recorder = options(["sac"])
    torch.set_num_threads(1)
    torch.manual_seed(words.seed)
    transforms = Compose(StepCounter(max_steps=500), InitTracker(), DoubleToFloat(), RewardSum())
    env = TransformedEnv(GymEnv("CartPole-v1"), transforms)
    env.set_seed(words.seed)
    features, choices = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
    sizes = {"in_features": features, "out_features": choices, "num_cells": HIDDEN, "activation_class": nn.ReLU}
    actor = ProbabilisticActor(
        spec=Composite(action=env.action_spec),
        module=TensorDictModule(MLP(**sizes), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        out_keys=["action"],
        distribution_class=OneHotCategorical,
        default_interaction_type=InteractionType.RANDOM,
        return_log_prob=False,
    )
    critic = TensorDictModule(MLP(**sizes), in_keys=["observation"], out_keys=["action_value"])
    loss = DiscreteSACLoss(
        actor_network=actor,
        qvalue_network=critic,
        num_actions=choices,
        num_qvalue_nets=2,
        loss_function="l2",
        target_entropy_weight=0.2,
        delay_qvalue=True,
    )
    loss.make_value_estimator(gamma=0.99)
    target = SoftUpdate(loss, eps=0.995)
    parts = {
        "loss_qvalue": list(loss.qvalue_network_params.flatten_keys().values()),
        "loss_actor": list(loss.actor_network_params.flatten_keys().values()),
        "loss_alpha": [loss.log_alpha],
    }
    optimizers = {name: torch.optim.Adam(parameters, lr=RATE) for name, parameters in parts.items()}
    # Their script keeps the replay in a file that is mapped into memory; in memory it is no slower.
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(TOTAL), batch_size=BATCH, prefetch=3)
    collector = Collector(
        env, actor, init_random_frames=1000, frames_per_batch=FRAMES, total_frames=TOTAL, device="cpu"
    )
    steps = updates = 0
    for collected in collector:
        frames = collected.reshape(-1)
        replay.extend(frames)
        steps += frames.numel()
        ended = frames["next", "done"]
        recorder.episodes(frames["next", "episode_reward"][ended].tolist())
        more = True
        for _ in range(FRAMES if steps >= 1000 else 0):
            found = loss(replay.sample())
            for name, optimizer in optimizers.items():
                optimizer.zero_grad()
                found[name].backward()
                optimizer.step()
            target.step()
            updates += 1
        more = recorder.mark(steps, updates)
        if not more:
            break
    collector.shutdown()
    recorder.finish(["torchrl", "torch", "gymnasium"])


if __name__ == "__main__":
    main()
