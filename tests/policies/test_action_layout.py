"""Every discrete space as groups × choices, there and back, with masks."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gumbelrl.policies import ActionLayout

SPACES = {
    "discrete": (spaces.Discrete(4), (4,)),
    "shifted": (spaces.Discrete(3, start=-1), (3,)),
    "multi-discrete": (spaces.MultiDiscrete([3, 5, 2]), (3, 5, 2)),
    "shifted multi-discrete": (spaces.MultiDiscrete([2, 3], start=[10, -5]), (2, 3)),
    "multi-discrete of rank 2": (spaces.MultiDiscrete(np.array([[2, 3], [4, 2]])), (2, 3, 4, 2)),
    "multi-binary": (spaces.MultiBinary(3), (2, 2, 2)),
    "multi-binary of rank 2": (spaces.MultiBinary([2, 2]), (2, 2, 2, 2)),
    "tuple": (spaces.Tuple((spaces.Discrete(2), spaces.MultiDiscrete([3, 4]))), (2, 3, 4)),
    "nested": (
        spaces.Dict({"move": spaces.Tuple((spaces.Discrete(5), spaces.MultiBinary(2))), "aim": spaces.Discrete(3)}),
        None,
    ),
}


def equal(ours, theirs):
    if isinstance(theirs, dict):
        return all(equal(ours[key], part) for key, part in theirs.items())
    if isinstance(theirs, tuple):
        return all(equal(a, b) for a, b in zip(ours, theirs, strict=True))
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("name", SPACES)
def test_actions_survive_the_way_to_one_hot_and_back(name):
    space, counts = SPACES[name]
    layout = ActionLayout.from_space(space)
    if counts is not None:
        assert layout.choice_counts == counts
    space.seed(0)
    for _ in range(50):
        action = space.sample()
        one_hot = layout.to_one_hot(action)
        assert one_hot.shape == (layout.num_groups, layout.num_choices)
        assert (one_hot.sum(-1) == 1).all()
        assert equal(layout.from_one_hot(one_hot), action)


@pytest.mark.parametrize("name", SPACES)
def test_batches_of_any_rank(name):
    space, _ = SPACES[name]
    layout = ActionLayout.from_space(space)
    logits = torch.randn(2, 3, layout.num_groups, layout.num_choices)
    if layout.static_mask is not None:
        logits = logits.masked_fill(~layout.static_mask, -1e9)
    one_hot = torch.nn.functional.one_hot(logits.argmax(-1), layout.num_choices).float()
    assert torch.equal(layout.to_one_hot(layout.from_one_hot(one_hot)), one_hot)


def test_the_ragged_end_is_masked_and_joins_a_dynamic_mask():
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    assert layout.static_mask.tolist() == [[True, True, True], [True, True, False]]
    flat = torch.tensor([[1, 0, 1, 1, 1], [1, 1, 1, 0, 1]])
    want = [[[True, False, True], [True, True, False]], [[True, True, True], [False, True, False]]]
    assert layout.merge_mask(flat).tolist() == want
    assert layout.merge_mask(torch.ones(4, 2, 3)).sum().item() == 4 * 5
    assert layout.merge_mask(None) is layout.static_mask
    with pytest.raises(ValueError, match=r"is \[..., 2, 3\] or \[..., 5\], got \(4, 6\)"):
        layout.merge_mask(torch.ones(4, 6))


def test_a_group_without_a_choice_names_its_row():
    layout = ActionLayout.from_space(spaces.Discrete(2))
    mask = torch.ones(3, 1, 2, dtype=torch.bool)
    layout.check_mask(mask)
    mask[1] = False
    with pytest.raises(ValueError, match="environment row 1 has no valid choice in group 0"):
        layout.check_mask(mask)


@pytest.mark.parametrize("name", SPACES)
def test_enumeration_lists_every_action_once(name):
    space, _ = SPACES[name]
    layout = ActionLayout.from_space(space)
    actions = layout.enumerate_actions()
    assert len(actions) == layout.num_joint_actions == len(torch.unique(actions.flatten(1), dim=0))
    if layout.static_mask is not None:
        assert (actions[:, ~layout.static_mask] == 0).all()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-1, 1, (2,)), "is continuous: gumbelrl needs Discrete"),
        (spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (2,)))), "is continuous"),
        (spaces.Text(4), "is not discrete"),
    ],
)
def test_other_spaces_are_refused_in_words(space, message):
    with pytest.raises(TypeError, match=message):
        ActionLayout.from_space(space)


def test_too_many_actions_to_enumerate():
    with pytest.raises(ValueError, match="too many to enumerate"):
        ActionLayout.from_space(spaces.MultiBinary(20)).enumerate_actions()
