"""The head inside sb3-contrib's unmodified MaskablePPO."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed: pip install sb3-contrib")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.maskable.evaluation import evaluate_policy

from gumbelrl.envs.sb3 import make_vec_env
from gumbelrl.policies.sb3 import GumbelCallback
from gumbelrl.policies.sb3.maskable import (
    GumbelMaskableActorCriticCnnPolicy,
    GumbelMaskableActorCriticMultiInputPolicy,
    GumbelMaskableActorCriticPolicy,
    make_gumbel_maskable_distribution,
)
from gumbelrl.policies.sb3.temperature import ScheduledTemperature

SPACES = {
    "discrete": (spaces.Discrete(5), 5),
    "multi_discrete": (spaces.MultiDiscrete([3, 5, 2]), 10),
    "multi_binary": (spaces.MultiBinary(3), 6),
}
each_space = pytest.mark.parametrize(("space", "size"), SPACES.values(), ids=SPACES)
SETTINGS = {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "device": "cpu", "seed": 0}


@each_space
@pytest.mark.parametrize("masked", [True, False])
def test_log_prob_entropy_and_mode_are_those_of_sb3_contrib(space, size, masked):
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(64, size, generator=generator, dtype=torch.float64)).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    ours = make_gumbel_maskable_distribution(space, ScheduledTemperature(1.5)).proba_distribution(logits)
    theirs = make_masked_proba_distribution(space).proba_distribution(twin / 1.5)
    mask = (torch.rand(64, size, generator=generator) < 0.6).numpy()
    first = np.cumsum([0, *ours.layout.choice_counts[:-1]])
    mask[:, first] = True
    ours.apply_masking(mask if masked else None)
    theirs.apply_masking(mask if masked else None)
    action = theirs.sample()
    assert torch.equal(ours.mode(), theirs.mode())
    assert ours.sample().dtype == action.dtype
    assert ours.sample().shape == action.shape
    for mine, other in ((ours.log_prob(action), theirs.log_prob(action)), (ours.entropy(), theirs.entropy())):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
        (gradient,) = torch.autograd.grad(mine.sum(), logits, retain_graph=True)
        (expected,) = torch.autograd.grad(other.sum(), twin, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gumbelrl/Pointer-v0", "gumbelrl/MultiButton-v0"])
def test_it_learns_saves_and_never_takes_what_is_masked(name, tmp_path):
    env = make_vec_env(name, 4, seed=0)
    env.unwrapped.refuse_masked = True  # a masked action would be an error
    model = MaskablePPO(
        GumbelMaskableActorCriticPolicy, env, policy_kwargs={"temperature": "linear:2.0:1.0"}, **SETTINGS
    )
    model.learn(192, GumbelCallback())
    assert 1.0 < model.policy.temperature < 2.0
    evaluate_policy(model, env, 4)
    model.save(tmp_path / "model.zip")
    loaded = MaskablePPO.load(tmp_path / "model.zip", device="cpu")
    observation, masks = env.reset(), np.stack(env.env_method("action_masks"))
    for deterministic in (True, False):
        torch.manual_seed(0)
        expected, _ = model.predict(observation, action_masks=masks, deterministic=deterministic)
        torch.manual_seed(0)
        again, _ = loaded.predict(observation, action_masks=masks, deterministic=deterministic)
        np.testing.assert_array_equal(again, expected)


def test_images_and_dicts():
    image = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    cnn = GumbelMaskableActorCriticCnnPolicy(image, spaces.Discrete(3), lambda _: 1e-3)
    several = spaces.Dict({"image": image, "vector": spaces.Box(-1, 1, (2,))})
    multi = GumbelMaskableActorCriticMultiInputPolicy(several, spaces.MultiBinary(2), lambda _: 1e-3)
    for policy, space, mask in ((cnn, image, [[0, 0, 1]]), (multi, several, [[0, 1, 1, 0]])):
        space.seed(0)
        action, _ = policy.predict(space.sample(), action_masks=np.array(mask))
        assert action.tolist() in (2, [1, 0])


def test_a_mask_that_allows_nothing_is_named():
    space = spaces.MultiDiscrete([2, 3])
    distribution = make_gumbel_maskable_distribution(space, ScheduledTemperature(1.0))
    distribution.proba_distribution(torch.zeros(2, 5))
    with torch.no_grad(), pytest.raises(ValueError, match="environment row 1 has no valid choice in group 1"):
        distribution.apply_masking(np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]))
    with pytest.raises((ValueError, RuntimeError), match=r"an action mask for .* is|invalid for input"):
        distribution.apply_masking(np.ones((2, 4)))
