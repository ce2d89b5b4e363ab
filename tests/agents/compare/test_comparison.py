"""What is computed from runs, and what is said of it: only what the intervals allow."""

import numpy as np
import pytest

from gumbelrl.agents import RunError
from gumbelrl.agents.compare.comparison import MOST_PAIRED, choose_pairs, compare
from gumbelrl.agents.compare.conclusions import conclude
from gumbelrl.agents.compare.statistics import interquartile_mean

LOW, HIGH = tuple(np.linspace(100, 200, 10)), tuple(np.linspace(300, 400, 10))


def said(*paths, **options):
    return conclude(compare(list(paths), **options))


def test_numbers_are_those_of_the_runs(make_run):
    gumbel, softmax = make_run("g", final=HIGH), make_run("s", policy="softmax", final=LOW)
    (part,) = compare([gumbel, softmax]).environments
    first, second = part.summaries
    assert first.final["sampled"].value == pytest.approx(float(interquartile_mean(np.array(HIGH))))
    assert first.final["greedy"].value == pytest.approx(1.01 * first.final["sampled"].value)
    assert second.final["sampled"].low < second.final["sampled"].value < second.final["sampled"].high < 200
    assert (part.threshold, part.threshold_source) == (475.0, "where gymnasium calls it solved")
    assert (first.reach.reached, first.reach.seeds, first.reach.steps.value) == (0, 10, np.inf)
    assert part.pairs[0].above.value == 1.0
    assert part.profile["gumbel"].value[0] == 1.0
    assert set(first.curves) >= {"train/return", "gradient/bias", "policy/temperature"}
    assert len(first.curves["train/return"].x) == 32
    assert len(first.curves["gradient/bias"].x) == 8


def test_steps_to_a_threshold_that_is_asked_for(make_run):
    """Seed 0 gets to 250 only; the upper median of three is the second to arrive."""
    folder = make_run("run", final=(250.0, 400.0, 500.0), begin=0.0)
    (part,) = compare([folder], threshold=300.0).environments
    reach = part.summaries[0].reach
    arrivals = sorted(-15_000 * np.log(1 - 300 / end) for end in (400.0, 500.0))
    assert (reach.reached, reach.seeds) == (2, 3)
    assert 0 <= reach.steps.value - arrivals[1] < 4096  # rows are written every 4,096 steps
    assert reach.steps.high == np.inf


def test_without_a_threshold_of_gymnasiums_it_is_a_share_of_the_optimum(make_run):
    folder = make_run("run", env="gumbelrl/DeepSea-v0", final=(0.9, 0.95), begin=0.04)
    (part,) = compare([folder]).environments
    assert part.scale.high == pytest.approx(0.99)  # its optimum
    assert part.threshold == pytest.approx(part.scale.low + 0.9 * (0.99 - part.scale.low))
    assert part.threshold_source.startswith("90% of the way")


def test_no_threshold_where_nothing_is_known(make_run):
    (part,) = compare([make_run("run", env="Acrobot-v7")]).environments  # not registered here: from another machine
    assert part.threshold is None
    assert part.summaries[0].reach is None


def test_a_difference_is_said_with_its_interval(make_run):
    text = said(make_run("g", final=HIGH), make_run("s", policy="softmax", final=LOW))
    assert text == [
        "In CartPole-v1, gumbel ends above softmax with probability 1.00 [1.00, 1.00]. "
        "No seed of any variant reaches 475 there."
    ]


def test_what_cannot_be_told_apart_is_called_so(make_run):
    runs = make_run("g", final=HIGH), make_run("s", policy="softmax", final=tuple(x + 1 for x in HIGH))
    assert "no two variants can be told apart by where they end: every interval includes ½" in said(*runs)[0]


def test_speed_is_told_apart_from_the_end(make_run):
    runs = make_run("g", final=(500.0,) * 6, speed=2), make_run("s", policy="softmax", final=(500.0,) * 6)
    (text,) = said(*runs)
    assert "every variant ends at 500: the end tells nothing apart" in text
    assert "There, gumbel reaches 475 sooner than softmax with probability 1.00 [1.00, 1.00]" in text


def test_many_pairs_are_counted(make_run):
    policies = ("gumbel", "softmax", "exact", "rloo", "relax")
    runs = [
        make_run(name, policy=name, final=tuple(np.array(LOW) + 150 * place)) for place, name in enumerate(policies)
    ]
    text = said(*runs)
    assert text[0].startswith(
        "In CartPole-v1, 10 of 10 pairs are told apart by where they end. Number of others that a variant ends above: "
        "relax 4, rloo 3, exact 2, softmax 1."
    )
    assert text[1].startswith(
        "10 pairs are compared, by end and by speed, at 95% each: even if nothing differed, about 1"
    )


def test_few_seeds_allow_no_conclusion(make_run):
    """Three against three are wholly separated by chance once in ten times."""
    (text,) = said(make_run("g", final=HIGH[:3]), make_run("s", policy="softmax", final=LOW[:3]))
    assert "nothing can be concluded from 3 seeds a variant" in text


def test_a_pair_with_few_seeds_is_left_out_beside_others_with_enough(make_run):
    runs = make_run("g", final=HIGH), make_run("s", policy="softmax", final=LOW), make_run("e", policy="exact")
    (text,) = said(*runs)
    assert "gumbel ends above softmax" in text
    assert "above exact" not in text
    assert "exact ends" not in text
    assert "2 pairs with fewer than 5 seeds allow no conclusion" in text


def test_one_variant_is_no_comparison(make_run):
    assert said(make_run("g")) == ["In CartPole-v1 there is one variant only: nothing to compare it with."]


def test_environments_count_alike(three_policies):
    comparison = compare([three_policies])
    assert [part.env for part in comparison.environments] == ["CartPole-v1", "gumbelrl/DeepSea-v0"]
    across = comparison.across
    assert across.labels == ["gumbel", "softmax", "reinforce"]
    assert 0 < across.final["reinforce"].high < across.final["gumbel"].low < 1
    within = [part.pairs[1].above.value for part in comparison.environments]
    assert across.pairs[1].above.value == pytest.approx(np.mean(within))
    text = " ".join(conclude(comparison))
    assert "Over all 2 environments together, gumbel ends above reinforce" in text
    assert "2 runs are not counted" in text
    assert {run.folder.name for run, _ in comparison.left_out} == {"stopped", "failed"}


def test_nothing_finished_is_an_error_that_lists_what_there_is(make_run):
    folder = make_run("stopped", finished=False)
    with pytest.raises(RunError, match=r"none of these runs is finished.*\n.*stopped: incomplete: no results.json"):
        compare([folder])


def test_a_run_that_ends_below_where_it_began_has_a_scale(make_run):
    runs = [
        make_run(f"{policy}{i}", env=env, policy=policy, final=tuple(x - i for x in LOW), begin=900.0)
        for policy in ("gumbel", "softmax")
        for i, env in enumerate(("Nowhere-v0", "Elsewhere-v0"))
    ]
    comparison = compare(runs)
    assert [part.scale.low for part in comparison.environments] == [100.0, 99.0]
    assert comparison.across.final["gumbel"].value == pytest.approx(0.5)


def test_of_very_many_variants_the_best_is_compared_with_each():
    finals = {str(index): np.array([float(index % 20), 0.0]) for index in range(MOST_PAIRED)}
    assert len(choose_pairs(finals)) == MOST_PAIRED * (MOST_PAIRED - 1) // 2
    pairs = choose_pairs(finals | {"more": np.zeros(2)})
    assert len(pairs) == MOST_PAIRED
    assert {first for first, _ in pairs} == {"19"}
