"""Temperature schedules, as formulas and as text."""

import math

import pytest

from gumbelrl.policies.temperature import SCHEDULES, Jang, check_temperature, format_temperature, parse_temperature


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0.7", {0.0: 0.7, 1.0: 0.7}),
        ("constant:0.7", {0.5: 0.7}),
        ("linear:1.0:0.2", {0.0: 1.0, 0.25: 0.8, 1.0: 0.2}),
        ("exponential:1.0:0.01", {0.0: 1.0, 0.5: 0.1, 1.0: 0.01}),
        ("jang:1e-3", {0.0: 1.0, 0.1: math.exp(-0.1), 1.0: 0.5}),
        ("jang:1e-3:0.8", {1.0: 0.8}),
    ],
)
def test_a_schedule_is_its_formula_and_its_text(text, points):
    """`progress` of a run of 1,000 steps."""
    schedule = parse_temperature(text)
    for progress, want in points.items():
        assert schedule.value(progress, round(1000 * progress)) == pytest.approx(want)
    assert parse_temperature(format_temperature(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warm", "neither a number nor a schedule"),
        ("linear:1.0", "has 1 numbers"),
        ("linear:1:2:3", "has 3 numbers"),
        ("linear:a:b", "should be numbers"),
        ("linear:1:0", "finite and at least"),
        ("0", "finite and at least"),
        ("exponential:nan:1", "finite and at least"),
        ("jang:-1", "not negative"),
    ],
)
def test_what_is_not_a_schedule_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_temperature(text)


def test_every_schedule_has_a_text():
    assert {"constant", "linear", "exponential", "jang"} <= set(SCHEDULES)
    assert format_temperature(Jang(1e-5)) == "jang:1e-05:0.5"


def test_the_smallest_temperature_is_accepted():
    check_temperature(1e-3)
    with pytest.raises(ValueError, match=r"at least 0.001"):
        check_temperature(9e-4)
