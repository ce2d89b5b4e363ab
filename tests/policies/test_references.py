"""Each estimator's gradient against its paper's formula, written again in float64, with the same noise.

The formulas use no code of ours: loops over rows and groups, NumPy-like tensor arithmetic, autograd where the paper
has a derivative of a reparameterised quantity.
"""

import itertools

import pytest
import torch

from gumbelrl.policies import ESTIMATORS
from gumbelrl.policies.sampling import exponential

ROWS, GROUPS, K = 6, 2, 4
TEMPERATURE = 0.6


def value(action):
    """Neither linear nor separable, and smooth inside the simplex."""
    weight = torch.linspace(-1.5, 2.0, GROUPS * K, dtype=torch.float64).view(GROUPS, K)
    total = (weight * action).sum((-2, -1))
    return torch.sin(2 * total) + (action[..., 0, :] * action[..., 1, :]).sum(-1) ** 2 + total


def slope_at(action, function=value):
    point = action.detach().clone().requires_grad_()
    return torch.autograd.grad(function(point).sum(), point)[0]


def jacobian_times(probs, vector):
    """J(q) g = q∘g − q (q·g), for each row and group."""
    out = torch.zeros_like(probs)
    for row, group in itertools.product(range(ROWS), range(GROUPS)):
        q = probs[row, group]
        out[row, group] = (torch.diag(q) - torch.outer(q, q)) @ vector[row, group]
    return out


def softmax(x):
    return x.exp() / x.exp().sum(-1, keepdim=True)


@pytest.fixture
def logits():
    return torch.randn(
        ROWS, GROUPS, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()


def ours(name, logits, **options):
    generator = torch.Generator().manual_seed(5)
    estimate = ESTIMATORS[name](logits, value, temperature=TEMPERATURE, generator=generator, **options)
    return torch.autograd.grad(estimate.objective.sum(), logits)[0], estimate.action


class Noise:
    """The exponential noise that the estimator drew, in its order: float32, from the same seed."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, *shape):
        return exponential(torch.Size(shape), generator=self.generator, device=torch.device("cpu")).double()


def gumbel(logits, action):
    relaxed = softmax((logits - Noise()(ROWS, GROUPS, K).log()) / TEMPERATURE)
    assert torch.equal(action.argmax(-1), relaxed.argmax(-1))
    return jacobian_times(relaxed, slope_at(action)) / TEMPERATURE


def gumbel_soft(logits, action):
    relaxed = softmax((logits - Noise()(ROWS, GROUPS, K).log()) / TEMPERATURE)
    torch.testing.assert_close(action, relaxed)
    return jacobian_times(relaxed, slope_at(relaxed)) / TEMPERATURE


def straight_through(logits, action):
    return jacobian_times(softmax(logits), slope_at(action))


def softmax_(logits, action):
    probs = softmax(logits / TEMPERATURE)
    return jacobian_times(probs, slope_at(probs)) / TEMPERATURE


def argmax_st(logits, action):
    mode = (logits == logits.amax(-1, keepdim=True)).double()
    return jacobian_times(softmax(logits), slope_at(mode))


def reinforce(logits, action):
    return value(action)[:, None, None] * (action - softmax(logits))


def rloo(logits, action):
    k, f = len(action), value(action)
    total = torch.zeros(ROWS, GROUPS, K, dtype=torch.float64)
    for i in range(k):
        others = sum(f[j] for j in range(k) if j != i) / (k - 1)
        total += (f[i] - others)[:, None, None] * (action[i] - softmax(logits)) / k
    return total


def exact(logits, action):
    total = torch.zeros_like(logits)
    for index in itertools.product(range(K), repeat=GROUPS):
        one_hot = torch.eye(K, dtype=torch.float64)[list(index)].expand(ROWS, GROUPS, K)
        chance = (softmax(logits) * one_hot).sum(-1).prod(-1)
        total = total + (chance * value(one_hot))[:, None, None] * (one_hot - softmax(logits))
    return total


def reinmax(logits, action):
    middle = (softmax(logits / TEMPERATURE) + action) / 2
    g = slope_at(action)
    return 2 * jacobian_times(middle, g) - jacobian_times(softmax(logits), g) / 2


def gapped(logits, action):
    moved = torch.zeros_like(logits)
    for row, group in itertools.product(range(ROWS), range(GROUPS)):
        theta, chosen = logits[row, group], int(action[row, group].argmax())
        for i in range(K):
            up = theta.max() - theta[chosen] if i == chosen else 0.0
            down = 0.0 if i == chosen else torch.relu(theta[i] + 1.0 - theta.max())
            moved[row, group, i] = theta[i] + up - down
    lead = moved.gather(-1, action.argmax(-1, keepdim=True)) - moved.masked_fill(action > 0, -torch.inf).amax(
        -1, keepdim=True
    )
    assert (lead >= 1.0 - 1e-12).all()
    return jacobian_times(softmax(moved / TEMPERATURE), slope_at(action)) / TEMPERATURE


def decoupled(logits, action):
    return jacobian_times(softmax(logits / TEMPERATURE), slope_at(action)) / TEMPERATURE


def conditional(logits, action, noise):
    """Z_D = −log E_D + log Z(θ); Z_i = −log(E_i / exp θ_i + E_D / Z(θ)), Z(θ) = Σ exp θ."""
    partition = logits.exp().sum(-1, keepdim=True)
    chosen = (noise * action).sum(-1, keepdim=True)
    other = -torch.log(noise / logits.exp() + chosen / partition)
    return torch.where(action > 0, -torch.log(chosen / partition), other)


def gumbel_rao(logits, action):
    noise = Noise()
    noise(ROWS, GROUPS, K)  # the action's
    total = torch.zeros_like(logits)
    for each in noise(10, ROWS, GROUPS, K):
        relaxed = softmax(conditional(logits, action, each) / TEMPERATURE)
        assert torch.equal(relaxed.argmax(-1), action.argmax(-1))
        total = total + jacobian_times(relaxed, slope_at(action)) / TEMPERATURE / 10
    return total


def rebar(logits, action, control=None):
    """[f(D) − c(z̃)] ∇log p(D) + ∇c(z) − ∇c(z̃), the last two by autograd through z and z̃."""
    noise = Noise()
    theta = logits.detach().requires_grad_()
    free = theta - noise(ROWS, GROUPS, K).log()
    tied = conditional(theta, action, noise(ROWS, GROUPS, K))
    assert torch.equal(free.argmax(-1), action.argmax(-1))

    def c(z):
        relaxed = softmax(z / TEMPERATURE)
        return value(relaxed) + (control(relaxed) if control else 0.0)

    through = torch.autograd.grad(c(free).sum() - c(tied).sum(), theta, create_graph=True)[0]
    return (value(action) - c(tied))[:, None, None] * (action - softmax(theta)) + through


def unordered(logits, row, action):
    """p(S) and its leave-one-out forms by listing every order of drawing."""
    probs = [(softmax(logits[row]) * each).sum(-1).prod() for each in action[:, row]]

    def chance(members, removed):
        total = 0.0
        for order in itertools.permutations(members):
            left, ways = 1.0 - sum(probs[i] for i in removed), 1.0
            for i in order:
                ways, left = ways * probs[i] / left, left - probs[i]
            total = total + ways
        return total

    return probs, chance


def unordered_set(logits, action):
    """Equation 15: Σ_s ∇p(s) R(S, s) (f(s) − Σ_s' p(s') R^{D∖s}(S, s') f(s'))."""
    k, f, total = len(action), value(action), torch.zeros_like(logits)
    for row in range(ROWS):
        p, chance = unordered(logits, row, action)
        for s in range(k):
            rest = [i for i in range(k) if i != s]
            ratio = chance(rest, [s]) / chance(range(k), [])
            baseline = p[s] * f[s, row]
            for other in rest:
                second = chance([i for i in rest if i != other], [s, other]) / chance(rest, [s])
                baseline = baseline + p[other] * second * f[other, row]
            score = action[s, row] - softmax(logits[row])
            total[row] += p[s] * ratio * (f[s, row] - baseline) * score
    return total


def sum_and_sample(logits, action):
    k, f, total = len(action), value(action), torch.zeros_like(logits)
    for row in range(ROWS):
        p, _ = unordered(logits, row, action)
        every = sorted(
            ((softmax(logits[row, 0])[i] * softmax(logits[row, 1])[j]).item() for i in range(K) for j in range(K)),
            reverse=True,
        )
        assert [each.item() for each in p[: k - 1]] == pytest.approx(every[: k - 1])
        assert p[-1].item() <= every[k - 1] + 1e-12
        weights = [*p[: k - 1], 1.0 - sum(p[: k - 1])]
        for s in range(k):
            total[row] += weights[s] * f[s, row] * (action[s, row] - softmax(logits[row]))
    return total


REFERENCES = {
    "gumbel": gumbel,
    "gumbel-soft": gumbel_soft,
    "straight-through": straight_through,
    "softmax": softmax_,
    "argmax-st": argmax_st,
    "reinforce": reinforce,
    "rloo": rloo,
    "exact": exact,
    "reinmax": reinmax,
    "gapped": gapped,
    "decoupled": decoupled,
    "gumbel-rao": gumbel_rao,
    "rebar": rebar,
    "relax": rebar,
    "unordered-set": unordered_set,
    "sum-and-sample": sum_and_sample,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradient_is_the_papers_formula(name, logits):
    if name not in REFERENCES:
        pytest.skip("no formula is written down for it here")
    got, action = ours(name, logits)
    want = REFERENCES[name](logits.detach(), action).detach()
    # Some of our noise is used in float32.
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_every_estimator_that_ships_has_a_formula():
    assert set(REFERENCES) == {
        name for name, each in ESTIMATORS.items() if each.function.__module__.startswith("gumbelrl")
    }


def test_relax_and_its_variance_loss(logits):
    """The gradient with a control variate, and the gradient of its squared norm by the control's parameters."""
    weight = torch.randn(GROUPS, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def control(action):
        return torch.tanh((action * weight).sum((-2, -1)))

    generator = torch.Generator().manual_seed(5)
    estimate = ESTIMATORS["relax"](logits, value, temperature=TEMPERATURE, generator=generator, control=control)
    got = torch.autograd.grad(estimate.objective.sum(), logits, retain_graph=True)[0]
    want = rebar(logits.detach(), estimate.action, control)
    torch.testing.assert_close(got, want.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(estimate.auxiliary, want.square().sum((-2, -1)), rtol=1e-5, atol=1e-6)
    (ours_,) = torch.autograd.grad(estimate.auxiliary.sum(), weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(want.square().sum(), weight)
    torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(estimate.objective.sum(), weight)


def test_relax_learns_to_vary_less():
    """The variance with a trained control is below 3/4 of that of rebar, on a function whose relaxation misleads."""

    def misleading(action):
        return 4.0 * (1.0 - action.square().sum((-2, -1))) + action[..., 0, 0]

    logits = torch.zeros(512, 1, 3, requires_grad=True)
    control = torch.nn.Sequential(torch.nn.Flatten(-2), torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = torch.optim.Adam(control.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def spread(control):
        estimate = ESTIMATORS["relax"](logits, misleading, generator=generator, control=control)
        return estimate.auxiliary, torch.autograd.grad(estimate.objective.sum(), logits)[0].var(0).sum().item()

    for _ in range(150):
        loss, _ = spread(lambda action: control(action).squeeze(-1))
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    trained = spread(lambda action: control(action).squeeze(-1))[1]
    assert trained < 0.75 * spread(None)[1]


# Identities --------------------------------------------------------------------------------------------------------


def test_reinmax_at_temperature_1_has_a_closed_form_and_is_the_limit_of_gumbel_rao(logits):
    """½ [J(p) g + ((D − p)·g)(D − p)]. The limit by 200,000 relaxations at .02, whose standard error is about 1%."""
    generator = torch.Generator().manual_seed(0)
    estimate = ESTIMATORS["reinmax"](logits, value, generator=generator)
    got = torch.autograd.grad(estimate.objective.sum(), logits)[0]
    probs, g = softmax(logits.detach()), slope_at(estimate.action)
    centred = estimate.action - probs
    want = 0.5 * (jacobian_times(probs, g) + (centred * g).sum(-1, keepdim=True) * centred)
    torch.testing.assert_close(got, want)

    generator = torch.Generator().manual_seed(0)  # the same action
    limit = ESTIMATORS["gumbel-rao"](logits, value, temperature=0.02, generator=generator, num_relaxations=200_000)
    assert torch.equal(limit.action, estimate.action)
    got = torch.autograd.grad(limit.objective.sum(), logits)[0]
    assert (got - want).abs().max() < 0.06 * want.abs().max()


def test_gumbel_rao_has_the_mean_of_gumbel_and_less_variance():
    """z-tests of the difference of means, |z| < 5: a failure rate below 1e-5."""
    results = {}
    for name in ("gumbel", "gumbel-rao"):
        many = torch.tensor([[0.5, -0.3, 0.1], [0.0, 1.0, -1.0]]).expand(200_000, 2, 3).clone().requires_grad_()
        objective = ESTIMATORS[name](
            many,
            lambda a: a[..., 0, 0] * a[..., 1, 1] - a[..., 1, 2],
            temperature=0.5,
            generator=torch.Generator().manual_seed(1),
        ).objective
        gradient = torch.autograd.grad(objective.sum(), many)[0].flatten(1)
        results[name] = gradient.mean(0), gradient.var(0)
    (mean, var), (rao_mean, rao_var) = results["gumbel"], results["gumbel-rao"]
    assert ((mean - rao_mean).abs() < 5 * ((var + rao_var) / 200_000).sqrt()).all()
    assert (rao_var < 0.8 * var).all()


def test_rebar_without_its_control_variate_is_reinforce(logits):
    got, action = ours("rebar", logits, scale=0.0)
    torch.testing.assert_close(got, reinforce(logits.detach(), action), rtol=1e-6, atol=1e-7)


def test_decoupled_samples_at_the_forward_temperature():
    """Frequencies of softmax(θ / 2) within 5 standard errors: a failure rate below 1e-5."""
    theta = torch.tensor([0.0, 1.0, 2.0])
    action = ESTIMATORS["decoupled"](
        theta.expand(200_000, 1, 3),
        lambda a: a[..., 0, 0],
        forward_temperature=2.0,
        generator=torch.Generator().manual_seed(0),
    ).action
    want = softmax(theta / 2)
    assert ((action.mean((0, 1)) - want).abs() < 5 * (want * (1 - want) / 200_000).sqrt()).all()


# What others ship --------------------------------------------------------------------------------------------------


def test_straight_through_equals_torchs_distribution(logits, monkeypatch):
    distribution = torch.distributions.OneHotCategoricalStraightThrough(logits=logits)
    got, action = ours("straight-through", logits)
    monkeypatch.setattr(type(distribution), "sample", lambda self, shape=(): action)
    (want,) = torch.autograd.grad(value(distribution.rsample()).sum(), logits)
    torch.testing.assert_close(got, want)


def test_gumbel_soft_equals_torchs_relaxed_one_hot_with_the_same_noise(logits, monkeypatch):
    """Torch draws uniforms u; our exponential noise is −log u."""
    got, action = ours("gumbel-soft", logits)
    uniform = torch.exp(-Noise()(ROWS, GROUPS, K))
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: uniform)
    distribution = torch.distributions.RelaxedOneHotCategorical(TEMPERATURE, logits=logits)
    relaxed = distribution.rsample()
    torch.testing.assert_close(action, relaxed.detach())
    torch.testing.assert_close(got, torch.autograd.grad(value(relaxed).sum(), logits)[0])


def test_gumbel_soft_has_torchs_density():
    """The mean of −log density over our samples equals that over torch's: |z| < 5, a failure rate below 1e-6."""
    theta, count = torch.tensor([[0.4, -0.2, 0.9]], dtype=torch.float64), 200_000
    action = ESTIMATORS["gumbel-soft"](
        theta.expand(count, 1, 3), lambda a: a[..., 0, 0], temperature=0.8, generator=torch.Generator().manual_seed(2)
    ).action
    torch.manual_seed(3)
    temperature = torch.tensor(0.8, dtype=torch.float64)
    distribution = torch.distributions.RelaxedOneHotCategorical(temperature, logits=theta[0])
    theirs = distribution.log_prob(distribution.sample((count,)))
    mine = distribution.log_prob(action[:, 0])
    z = (mine.mean() - theirs.mean()) / ((mine.var() + theirs.var()) / count).sqrt()
    assert z.abs() < 5


def test_torchrls_relaxed_one_hot_differs_from_the_reference_and_ours_does_not(monkeypatch):
    """Its backward pass reads a tensor that its forward pass has overwritten (torchrl 0.14)."""
    torchrl = pytest.importorskip("torchrl.modules.distributions.discrete")
    logits = torch.tensor([[0.2, -0.5, 1.0, 0.1]], requires_grad=True)
    weight = torch.tensor([0.3, -1.0, 2.0, 0.7])
    uniform = torch.tensor([[0.31, 0.77, 0.52, 0.64]])
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: uniform)
    strategy = torchrl.ReparamGradientStrategy.RelaxedOneHot
    theirs = torchrl.OneHotCategorical(logits=logits, grad_method=strategy).rsample()
    relaxed = torch.distributions.RelaxedOneHotCategorical(1.0, logits=logits).rsample()
    reference = theirs.detach() + relaxed - relaxed.detach()
    assert torch.equal(theirs.argmax(-1), relaxed.argmax(-1))
    (want,) = torch.autograd.grad((reference @ weight).sum(), logits)
    noise = -torch.log(-torch.log(uniform))
    monkeypatch.setattr("gumbelrl.policies.sampling.gumbel_noise", lambda logits, *, generator: noise.unsqueeze(-2))
    estimate = ESTIMATORS["gumbel"](logits.unsqueeze(-2), lambda action: (action @ weight).sum(-1))
    (got,) = torch.autograd.grad(estimate.objective.sum(), logits)
    torch.testing.assert_close(got, want)
    (wrong,) = torch.autograd.grad((theirs @ weight).sum(), logits)
    assert (wrong - want).abs().max() > 0.05
