"""The counter-based streams; statistical bounds are five standard errors, and the seeds are fixed."""

import pytest
import torch

from gumbelrl.random import RandomStreams, derive_seed


def test_a_row_depends_on_its_own_seed_only():
    together = RandomStreams([3, 4, 5])
    alone = RandomStreams([4])
    for shape in [(7,), (2, 3), ()]:
        assert torch.equal(together.bits(*shape)[1], alone.bits(*shape)[0])


def test_draws_continue_one_sequence_however_they_are_cut():
    whole = RandomStreams([1]).bits(10)
    parts = RandomStreams([1])
    assert torch.equal(whole, torch.cat([parts.bits(4), parts.bits(6)], dim=1))


def test_splitmix64_reference_values():
    """The first outputs of SplitMix64 from state 0, as published with the reference implementation."""
    streams = RandomStreams([0])
    streams.key.zero_()
    want = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value % (1 << 64) for value in streams.bits(3)[0].tolist()] == want


def test_moments_and_correlations():
    count = 200_000
    streams = RandomStreams([10, 11, 12, 1 << 60])
    uniform = streams.uniform(count)
    assert (uniform.mean(1) - 0.5).abs().max() < 5 * (1 / 12 / count) ** 0.5
    assert (streams.normal(count).std(1) - 1).abs().max() < 5 * (0.5 / count) ** 0.5
    assert (streams.exponential(count).mean(1) - 1).abs().max() < 5 / count**0.5
    correlation = torch.corrcoef(torch.cat([uniform, uniform[:1].roll(1, dims=1)]))
    assert (correlation - torch.eye(5)).abs().max() < 5 / count**0.5


def test_uniform_is_open():
    streams = RandomStreams([0])
    for bits in (0, -1):
        streams.bits = lambda *shape, bits=bits, **_: torch.full((1, *shape), bits)  # the extreme words
        assert 0 < streams.uniform(1).item() < 1
        assert 0 < streams.uniform64(1).item() < 1
        assert 0 < streams.exponential(1).item() < 17


def test_permutation_and_integers():
    streams = RandomStreams([0, 1])
    order = streams.permutation(100)
    assert torch.equal(order.sort(1).values, torch.arange(100).expand(2, -1))
    numbers = streams.integers(7, 10_000)
    assert set(numbers.unique().tolist()) == set(range(7))
    with pytest.raises(ValueError, match="high >= 1"):
        streams.integers(0, 1)


@pytest.mark.parametrize("share", [(0, 1), (1, 3)])
def test_permutations_are_those_of_as_many_draws(share):
    at_once, apart = RandomStreams([0, 1]), RandomStreams([0, 1])
    for streams in (at_once, apart):
        streams.divide(*share)
    orders = at_once.permutations(5, 9)
    assert torch.equal(orders, torch.stack([apart.permutation(9) for _ in range(5)], dim=1))
    assert torch.equal(at_once.bits(4), apart.bits(4))


def test_state_resumes():
    streams = RandomStreams([1, 2])
    streams.uniform(5)
    state = streams.state_dict()
    want = streams.uniform(5)
    other = RandomStreams([8, 9])
    other.load_state_dict(state)
    assert torch.equal(other.uniform(5), want)
    with pytest.raises(ValueError, match="2 streams"):
        RandomStreams([1]).load_state_dict(state)


def test_derived_seeds_differ():
    seeds = {derive_seed(seed, purpose, index) for seed in range(20) for purpose in ("a", "b") for index in range(20)}
    assert len(seeds) == 800
    assert min(seeds) >= 0


@pytest.mark.parametrize(("shape", "axis"), [((3,), 0), ((3, 4, 2), 0), ((3, 4, 2), 1), ((3, 4, 2), 2)])
def test_shares_of_a_draw_are_side_by_side_what_one_generator_draws(shape, axis):
    whole, shares = RandomStreams([3, 4]), [RandomStreams([3, 4]) for _ in range(2)]
    for index, share in enumerate(shares):
        share.divide(index, 2)
    together = [length * (1 + (index == axis)) for index, length in enumerate(shape)]
    for _ in range(2):  # and so on
        drawn = [share.uniform(*shape, divided=axis) for share in shares]
        assert torch.equal(torch.cat(drawn, dim=1 + axis), whole.uniform(*together))
        assert all(torch.equal(share.counter, whole.counter) for share in shares)


def test_shares_never_overlap_whatever_the_axis():
    shares = [RandomStreams([7]) for _ in range(3)]
    for index, share in enumerate(shares):
        share.divide(index, 3)
    drawn = [torch.cat([share.bits(4, 2, divided=1).flatten(), share.bits(5).flatten()]) for share in shares]
    assert len(torch.cat(drawn).unique()) == 39
