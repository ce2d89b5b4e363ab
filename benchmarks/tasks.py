"""What a benchmark of learning runs: an agent in an environment, and the trainer of all its seeds side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gumbelrl.agents import AGENTS, Trainer
from gumbelrl.agents.compilation import obstacle
from gumbelrl.agents.compiled_training import compile_training
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.envs import BatchedEnv, make
from gumbelrl.policies import ActionLayout, parse_temperature

TIME_LIMIT = 1000  # a policy may walk in circles


@dataclass(frozen=True)
class Task:
    """An agent in an environment, and what it should reach there.

    Attributes:
        goal: mean return that counts as reached.
        measure: of what: `training`, the last 100 training episodes, exploration included, at the end and before;
            `greedy`, the final policy's most probable actions.
        settings: of the agent, beside its defaults; none for those alone.
        time_limit: steps of an episode, where the environment has no limit of its own; 0 for none.
        num_seeds: of a result, from 0 up.
        episodes: of the final evaluation of each seed.
    """

    env: str
    agent: str
    total_steps: int
    goal: float
    measure: str = "training"
    policy: str = "gumbel"
    critic: str = "linear"
    temperature: str = "1.0"
    settings: dict[str, Any] = field(default_factory=dict)
    env_settings: dict[str, Any] = field(default_factory=dict)
    time_limit: int = TIME_LIMIT
    num_seeds: int = 10
    episodes: int = 100


def build(task: Task, seeds: tuple[int, ...], *, compiled: bool = False) -> tuple[Trainer, Any]:
    """Return a trainer of the task, whose steps may be compiled, and what makes its environments."""

    def make_env(num_envs: int) -> BatchedEnv:
        env = make(task.env, num_envs=num_envs, **task.env_settings)
        env.max_episode_steps = env.max_episode_steps or task.time_limit or None
        return env

    entry = AGENTS[task.agent]
    config, schedule = entry.config(**task.settings), parse_temperature(task.temperature)
    env = make_env(len(seeds) * config.num_envs)
    agent = entry.agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        seeds=seeds,
        estimator=task.policy if entry.uses_estimator else "",
        critic=task.critic if entry.uses_estimator else "",
        temperature=schedule,
        observation_space=env.single_observation_space,
        device="cpu",
    )
    trainer = Trainer(agent, env, seeds=seeds, total_steps=task.total_steps, temperature=schedule.value)
    if compiled:
        if reason := obstacle(agent):
            raise RunError(f"it cannot be compiled: {reason}")
        compile_training(trainer)
    return trainer, make_env
