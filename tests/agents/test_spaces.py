"""Spaces that are trees, through gymnasium, the loop and the evaluation."""

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import ActorCritic, ActorCriticConfig, Trainer, evaluate
from gumbelrl.agents.perception.observations import action_mask, num_features, to_features
from gumbelrl.envs import GymnasiumEnv
from gumbelrl.policies import ActionLayout

ACTION_SPACES = {
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([2, 4]))),
    "dict": spaces.Dict({"move": spaces.Discrete(3, start=-1), "buttons": spaces.MultiBinary(2)}),
    "nested": spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))), "b": spaces.MultiBinary(2)}),
}
VALID = np.array([False, True, True, True, False, True], dtype=np.int8)  # of Discrete(3) and Discrete(3)


class Anything(gymnasium.Env):
    """Takes any action space, checks every action against it, and pays 1 where the first variable is its largest."""

    seen: ClassVar[list] = []

    def __init__(self, action_space, observation_space=None):
        self.action_space = action_space
        self.observation_space = observation_space or spaces.Box(-1, 1, (3,), np.float32)
        self.step_count = 0

    def _observation(self):
        self.observation_space.seed(self.step_count)
        observation = self.observation_space.sample()
        if isinstance(observation, dict) and "action_mask" in observation:
            observation["action_mask"] = VALID.copy()
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count = 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.seen.append(action)
        self.step_count += 1
        return self._observation(), 1.0, self.step_count == 7, False, {}


@pytest.fixture
def env_id():
    gymnasium.register("Anything-v0", Anything, max_episode_steps=50)
    Anything.seen.clear()
    yield "Anything-v0"
    del gymnasium.registry["Anything-v0"]


CONFIG = ActorCriticConfig(num_envs=2, rollout_steps=8, epochs=1, minibatches=2, hidden=(8,), diagnostics_interval=0)


def make_trainer(env, seeds=(0, 1)):
    agent = ActorCritic(
        CONFIG,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        observation_space=env.single_observation_space,
        seeds=seeds,
    )
    return Trainer(agent, env, seeds=seeds, total_steps=64, temperature=lambda progress, step: 1.0)


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_actions_that_are_trees_reach_the_environment(env_id, kind):
    def make_env(num_envs):
        return GymnasiumEnv(env_id, num_envs, action_space=ACTION_SPACES[kind])

    trainer = make_trainer(make_env(4))
    trainer.iterate()
    assert len(Anything.seen) == 4 * 8
    returns = evaluate(trainer.agent, make_env, seeds=(0, 1), episodes=3, greedy=False)
    torch.testing.assert_close(returns, torch.full((2, 3), 7.0))


SEEN = spaces.Dict(
    {
        "board": spaces.Box(-1, 1, (2, 3)),
        "rest": spaces.Dict({"place": spaces.Discrete(3), "flags": spaces.MultiBinary(2)}),
        "words": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.Box(0, 1, (1,)))),
    }
)
MASKED = spaces.Dict({**SEEN.spaces, "action_mask": spaces.MultiBinary(6)})


def test_a_tree_of_observations_is_flattened_as_gymnasium_does_it():
    rows = [SEEN.sample() for _ in range(5)]
    tree = {
        "board": torch.tensor(np.stack([row["board"] for row in rows])),
        "rest": {
            "place": torch.tensor([row["rest"]["place"] for row in rows]),
            "flags": torch.tensor(np.stack([row["rest"]["flags"] for row in rows])),
        },
        "words": tuple(torch.tensor(np.stack([row["words"][part] for row in rows])) for part in range(2)),
    }
    want = np.stack([spaces.flatten(SEEN, row) for row in rows]).astype(np.float32)
    assert num_features(SEEN) == num_features(MASKED) == want.shape[1]
    mask = torch.ones(5, 6)
    for space, observation in ((SEEN, tree), (MASKED, {**tree, "action_mask": mask})):
        np.testing.assert_allclose(to_features(space, observation).numpy(), want)
    assert action_mask({**tree, "action_mask": mask}, {}) is mask
    assert action_mask(tree, {"action_mask": mask}) is mask
    assert action_mask(tree, {"final_action_mask": mask}, final=True) is mask
    assert action_mask(tree, {}) is None


PAIR = spaces.MultiDiscrete([3, 3])


def test_a_dictionary_with_a_mask_and_nested_parts_is_learned_from_through_gymnasium(env_id):
    def make_env(num_envs):
        return GymnasiumEnv(env_id, num_envs, action_space=PAIR, observation_space=MASKED)

    trainer = make_trainer(make_env(4))
    assert trainer.observation.shape == (2, 2, num_features(SEEN))
    trainer.iterate()
    evaluate(trainer.agent, make_env, seeds=(0, 1), episodes=3, greedy=True)
    first, second = np.array(Anything.seen).T
    assert len(first) >= 4 * 8 + 6 * 7
    assert set(first) == {1, 2}
    assert set(second) == {0, 2}


class TreeOfTensors(GymnasiumEnv):
    """A batched environment of one's own that hands out a tree of tensors, as a BatchedEnv with a Dict space may."""

    def __init__(self, env_id, num_envs):
        super().__init__(env_id, num_envs, action_space=PAIR)
        self.single_observation_space = spaces.Dict(
            {"seen": self.single_observation_space, "action_mask": spaces.MultiBinary(6)}
        )

    def _tree(self, observation):
        return {"seen": observation, "action_mask": torch.tensor(VALID).expand(self.num_envs, 6)}

    def reset(self, seed):
        return self._tree(super().reset(seed))

    def step(self, action):
        step = super().step(action)
        return step._replace(
            observation=self._tree(step.observation), final_observation=self._tree(step.final_observation)
        )


def test_a_batched_environment_may_give_a_tree_of_tensors(env_id):
    trainer = make_trainer(TreeOfTensors(env_id, 4))
    rollout = trainer.collect()
    assert rollout.observation.shape == (8, 2, 2, 3)
    assert torch.equal(rollout.final_mask, rollout.mask)
    trainer.agent.update(rollout)
    evaluate(trainer.agent, lambda num_envs: TreeOfTensors(env_id, num_envs), seeds=(0, 1), episodes=2, greedy=False)
    first, second = np.array(Anything.seen).T
    assert set(first) == {1, 2}
    assert set(second) == {0, 2}
