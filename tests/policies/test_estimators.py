"""Each estimator's declarations, and their negations, against the enumerated gradient.

Where the one-hot sample is the only randomness, the expected estimate is a finite sum and is compared in float64. Where
there is Gumbel noise the mean of many estimates is compared by a z-test of its own seed.
"""

import itertools
import sys

import pytest
import torch

from gumbelrl.policies import ESTIMATORS, register, temporary_registration
from gumbelrl.policies.estimators import Estimate, base
from gumbelrl.random import RandomStreams

K, GROUPS = 3, 2
RELAXED = sorted(name for name, each in ESTIMATORS.items() if each.noise == "relaxed")
ENUMERABLE = sorted(set(ESTIMATORS) - set(RELAXED))


def linear(action):
    weight = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]], dtype=action.dtype)
    return (action * weight).sum((-2, -1))


def multilinear(action):
    joint = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0], [2.0, 0.3, 0.4]], dtype=action.dtype)
    return torch.einsum("...i,...j,ij->...", action[..., 0, :], action[..., 1, :], joint)


def quadratic(action):
    target = torch.tensor([[0.45, -0.2, 0.9], [0.1, 0.6, -0.4]], dtype=action.dtype)
    return (action - target).square().sum((-2, -1)) + 2.0 * action[..., 0, 0] * action[..., 0, 1]


def general(action):
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.7, 1.1, -0.9]], dtype=action.dtype)
    return torch.tanh((weight * action).sum((-2, -1))) + (action[..., 0, :] ** 3 * weight[0]).sum(-1)


FUNCTIONS = {"linear": linear, "multilinear": multilinear, "quadratic": quadratic, "general": general}
INCLUDES = {
    "all": {"linear", "multilinear", "quadratic", "general"},
    "quadratic": {"linear", "multilinear", "quadratic"},
    "multilinear": {"linear", "multilinear"},
    "linear": {"linear"},
    "none": set(),
}


@pytest.fixture
def logits():
    values = torch.tensor([[0.2, -0.5, 1.0], [0.0, 0.8, -0.3]], dtype=torch.float64)
    return values.requires_grad_()


def joint_actions():
    rows = [torch.eye(K, dtype=torch.float64)[list(index)] for index in itertools.product(range(K), repeat=GROUPS)]
    return torch.stack(rows)


def exact_gradient(logits, value):
    actions = joint_actions()
    weights = (torch.log_softmax(logits, -1) * actions).sum((-2, -1)).exp()
    return torch.autograd.grad((weights * value(actions)).sum(), logits)[0]


def expected_estimate(name, logits, value, monkeypatch, **options):
    """Enumerate: force each joint action in turn (each pair of them for `rloo`) and weigh it by its probability."""
    estimator, actions = ESTIMATORS[name], joint_actions()
    if "num_samples" in estimator.options:
        options["num_samples"] = 2
        actions = torch.stack([torch.stack(pair) for pair in itertools.product(actions, repeat=2)])
    score = (torch.log_softmax(logits, -1) * actions).sum((-2, -1))
    weights = (score if score.dim() == 1 else score.sum(1)).exp().detach()
    module = sys.modules[estimator.function.__module__]
    total = torch.zeros_like(logits)
    for action, weight in zip(actions, weights, strict=True):
        if estimator.noise == "sample":
            monkeypatch.setattr(module, "sample_one_hot", lambda *a, forced=action, **k: forced)
        total += weight * torch.autograd.grad(estimator(logits, value, **options).objective, logits)[0]
    return total


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ENUMERABLE)
def test_exactness_is_as_declared_by_enumeration(name, function, logits, monkeypatch):
    value = FUNCTIONS[function]
    got = expected_estimate(name, logits, value, monkeypatch)
    want = exact_gradient(logits, value)
    if function in INCLUDES[ESTIMATORS[name].exact_on]:
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    else:
        assert (got - want).abs().max() > 1e-2, "declared inexact here, but it is exact"


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", RELAXED)
def test_exactness_is_as_declared_by_many_estimates(name, function, logits):
    """z-tests of the mean of 100,000 estimates, seeded.

    Declared exact: all six |z| below 5; a right estimator fails with probability 6 · 5.7e-7 a case, 1e-4 over all.
    Declared inexact: some |z| above 8; an unbiased estimator would pass with probability below 1e-14.
    """
    value = FUNCTIONS[function]
    many = logits.detach().expand(100_000, GROUPS, K).clone().requires_grad_()
    objective = ESTIMATORS[name](many, value, generator=torch.Generator().manual_seed(1)).objective
    estimates = torch.autograd.grad(objective.sum(), many)[0].flatten(1)
    error = estimates.mean(0) - exact_gradient(logits, value).flatten()
    z = (error / (estimates.std(0) / len(estimates) ** 0.5).clamp_min(1e-12)).abs().max()
    if function in INCLUDES[ESTIMATORS[name].exact_on]:
        assert z < 5
    else:
        assert z > 8, "declared inexact here, but it looks exact"


@pytest.mark.parametrize("baseline", ["none", "mean-action", "self-critical", torch.tensor(7.0)])
def test_reinforce_is_unbiased_with_any_baseline(baseline, logits, monkeypatch):
    got = expected_estimate("reinforce", logits, general, monkeypatch, baseline=baseline)
    torch.testing.assert_close(got, exact_gradient(logits, general), rtol=1e-9, atol=1e-11)


def test_gumbel_bias_vanishes_with_the_temperature(logits):
    """Fails by chance with probability below 1e-6: the bound is 5 standard errors beyond the remaining bias."""
    want = exact_gradient(logits, linear)
    errors = []
    for temperature in (1.0, 0.3, 0.05):
        many = logits.detach().expand(400_000, GROUPS, K).clone().requires_grad_()
        generator = torch.Generator().manual_seed(2)
        objective = ESTIMATORS["gumbel"](many, linear, temperature=temperature, generator=generator).objective
        estimates = torch.autograd.grad(objective.sum(), many)[0]
        errors.append((estimates.mean(0) - want).abs().max().item())
    assert errors[0] > 3 * errors[1] > 3 * errors[2]
    assert errors[2] < 0.05


@pytest.mark.parametrize("name", ESTIMATORS)
def test_values_are_one_hot_or_not_as_declared(name, logits):
    seen = []

    def value(action):
        seen.append(action.detach())
        return general(action)

    ESTIMATORS[name](logits, value, generator=torch.Generator().manual_seed(0))
    vertices = [((action == 0) | (action == 1)).all() and (action.sum(-1) == 1).all() for action in seen]
    assert all(vertices) == ESTIMATORS[name].one_hot
    if isinstance(ESTIMATORS[name].evaluations, int):
        assert len(seen) == ESTIMATORS[name].evaluations


@pytest.mark.parametrize("name", ESTIMATORS)
def test_objective_is_the_value_of_the_action(name, logits):
    estimate = ESTIMATORS[name](logits, general, generator=torch.Generator().manual_seed(3))
    if name == "exact":
        weights = (torch.log_softmax(logits, -1) * joint_actions()).sum((-2, -1)).exp()
        want = (weights * general(joint_actions())).sum()
    elif name in ("unordered-set", "sum-and-sample"):
        pytest.skip("a weighted sum: see test_without_replacement.py")
    else:
        want = general(estimate.action).mean()
    torch.testing.assert_close(estimate.objective, want)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nothing_flows_into_the_parameters_of_the_value_function(name, logits):
    weight = torch.randn(GROUPS, K, dtype=torch.float64, requires_grad=True)
    ESTIMATORS[name](logits, lambda action: (action * weight).square().sum((-2, -1))).objective.backward()
    assert weight.grad is None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_masked_choice_is_never_taken_and_gets_no_gradient(name):
    logits = torch.randn(500, GROUPS, K, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(500, GROUPS, K, dtype=torch.bool)
    mask[:, 0, 1] = mask[::2, 1, 2] = False
    estimate = ESTIMATORS[name](logits, general, mask=mask, generator=torch.Generator().manual_seed(1))
    assert (estimate.action * ~mask == 0).all()
    gradient = torch.autograd.grad(estimate.objective.sum(), logits)[0]
    assert (gradient[~mask] == 0).all()
    assert gradient.isfinite().all()
    assert gradient[mask].abs().sum() > 0


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_finite_for_extreme_logits_and_temperatures(name, scale, temperature):
    logits = (scale * torch.randn(64, GROUPS, K, generator=torch.Generator().manual_seed(0))).requires_grad_()
    mask = torch.rand(64, GROUPS, K, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[..., 0] = True
    estimate = ESTIMATORS[name](logits, general, temperature=temperature, mask=mask)
    assert estimate.objective.isfinite().all()
    assert torch.autograd.grad(estimate.objective.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_floating_dtype_any_rank_and_non_contiguous(name, dtype):
    for shape in [(K, GROUPS), (5, K, GROUPS), (2, 5, K, GROUPS), (4, 2, 5, K, GROUPS)]:
        logits = torch.randn(shape).to(dtype).transpose(-1, -2).requires_grad_()
        estimate = ESTIMATORS[name](logits, linear)
        assert estimate.objective.shape == logits.shape[:-2]
        assert estimate.action.shape[-logits.dim() :] == logits.shape
        assert torch.autograd.grad(estimate.objective.sum(), logits)[0].dtype == dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_members_draw_from_their_own_streams(name):
    logits = torch.randn(1, 6, GROUPS, K).expand(3, -1, -1, -1)
    together = ESTIMATORS[name](logits, general, generator=RandomStreams([5, 6, 7])).action
    alone = ESTIMATORS[name](logits[:1], general, generator=RandomStreams([6])).action
    torch.testing.assert_close(together[..., 1:2, :, :, :], alone, rtol=0, atol=0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_several_samples_are_averaged(name, logits):
    """The variance of the mean of 16 is below half of that of one or two; deterministic estimators stay as they are."""
    estimator = ESTIMATORS[name]
    few = {"num_samples": 2} if "num_samples" in estimator.options else {}
    more = 6 if "num_samples" in estimator.options else 16  # two thirds of all nine joint actions
    spread = []
    for options in (few, {"num_samples": more}):
        many = logits.detach().expand(4000, GROUPS, K).clone().requires_grad_()
        estimate = estimator(many, general, generator=torch.Generator().manual_seed(0), **options)
        assert estimate.objective.shape == (4000,)
        spread.append(torch.autograd.grad(estimate.objective.sum(), many)[0].var(0).sum().item())
    assert spread[1] < 0.5 * spread[0] or spread == [0.0, 0.0]
    if estimator.noise == "sample" and not few:
        assert estimate.action.shape == (16, 4000, GROUPS, K)
    with pytest.raises(ValueError, match="num_samples"):
        estimator(logits, general, num_samples=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_temperature_that_is_not_positive_and_finite_is_refused(name, temperature, logits):
    with pytest.raises(ValueError, match="temperature must be finite"):
        ESTIMATORS[name](logits, linear, temperature=temperature)


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_equals_torch_with_the_same_noise(hard, temperature, logits, torchs_noise):
    """Torch draws Exponential(1) in the dtype of the logits, so the same seed gives the same noise in float32."""
    single = logits.detach().float().requires_grad_()
    torch.manual_seed(11)
    theirs = torch.nn.functional.gumbel_softmax(single, tau=temperature, hard=hard)
    want = torch.autograd.grad(general(theirs), single)[0]
    torch.manual_seed(11)
    name = "gumbel" if hard else "gumbel-soft"
    estimate = ESTIMATORS[name](single, general, temperature=temperature)
    torch.testing.assert_close(estimate.action, theirs.detach())
    torch.testing.assert_close(torch.autograd.grad(estimate.objective, single)[0], want)


def test_the_hard_sample_does_not_depend_on_the_temperature(logits):
    actions = [
        ESTIMATORS["gumbel"](
            logits.expand(1000, GROUPS, K), linear, temperature=t, generator=torch.Generator().manual_seed(4)
        ).action
        for t in (0.1, 1.0, 10.0)
    ]
    assert torch.equal(actions[0], actions[1])
    assert torch.equal(actions[0], actions[2])


@pytest.mark.parametrize(("name", "stall"), [("softmax", 0.75), ("straight-through", 0.75), ("gumbel", 0.822)])
def test_curvature_bandit_stalls_where_the_closed_form_says(name, stall):
    """f(x) = r·x + c(1 − ‖x‖²), c = 1, gap 1: the fixed point p* = ½ + Δ/4c for the first two; .822 by quadrature."""
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def value(action):
        return (action * reward).sum((-2, -1)) + 1.0 - action.square().sum((-2, -1))

    def mean_gradient(p):
        logit = torch.tensor([[p.log() - (1 - p).log(), 0.0]], dtype=torch.float64)
        many = logit.expand(400_000, 1, 2).clone().requires_grad_()
        objective = ESTIMATORS[name](many, value, generator=torch.Generator().manual_seed(0)).objective
        return torch.autograd.grad(objective.sum(), many)[0][:, 0, 0].mean()

    # Three standard errors of 400,000 estimates are below the gradient at ±.02 from the fixed point.
    assert mean_gradient(torch.tensor(stall - 0.02, dtype=torch.float64)) > 0
    assert mean_gradient(torch.tensor(stall + 0.02, dtype=torch.float64)) < 0


def test_exact_refuses_what_cannot_be_enumerated_but_takes_sums_over_groups():
    logits = torch.randn(64, 5)
    with pytest.raises(ValueError, match="joint actions"):
        ESTIMATORS["exact"](logits, linear)

    class Sum:
        choice_values = torch.randn(64, 5)

        def __call__(self, action):
            return (action * self.choice_values).sum((-2, -1))

    assert ESTIMATORS["exact"](logits, Sum()).objective.isfinite()


def test_a_name_cannot_be_registered_twice():
    with temporary_registration(), pytest.raises(ValueError, match="registered already"):
        register("gumbel", exact_on="none")(lambda: None)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_compiles_as_one_graph_with_the_same_result(name, torchs_noise):
    torch._dynamo.reset()
    logits = torch.randn(4, GROUPS, K, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([True, True, False])

    def run(x):
        return ESTIMATORS[name](x, general, temperature=0.7, mask=mask).objective

    results = []
    for each in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(0)
        objective = each(logits)
        results.append((objective.detach(), torch.autograd.grad(objective.sum(), logits)[0]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_works_under_autocast(name):
    layer = torch.nn.Linear(5, GROUPS * K)
    critic = torch.nn.Linear(GROUPS * K, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = layer(torch.randn(7, 5)).unflatten(-1, (GROUPS, K))
        assert logits.dtype == torch.bfloat16
        estimate = ESTIMATORS[name](logits, lambda action: critic(action.flatten(-2)).squeeze(-1))
    estimate.objective.sum().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.abs().sum() > 0
    assert critic.weight.grad is None


def test_an_estimate_is_an_objective_and_an_action():
    assert Estimate._fields == ("objective", "action", "auxiliary")
    assert base.ESTIMATORS is ESTIMATORS
