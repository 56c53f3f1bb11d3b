from __future__ import annotations

from dataclasses import replace

from dinomill.planning.choices import in_words
from dinomill.planning.expectation import expectation, warnings
from dinomill.planning.probe import expected_seconds
from dinomill.planning.recipe import plan
from tests.planning.pools import COLOUR, CRAWL, LABELLED, VITS14, machine, pool, wish


def _said(**changes: object) -> str:
    return " ".join(expectation(plan(wish(**changes), COLOUR, machine())))


def test_too_little_is_said_to_be_too_little_and_what_to_do_instead() -> None:
    said = _said(**LABELLED)
    assert "4,959 images and one hour on two cores are too little to learn from nothing" in said
    assert "--from WEIGHTS" in said


def test_weights_are_promised_no_more_than_they_give() -> None:
    said = _said(start=VITS14, **LABELLED)
    assert "too little" not in said
    assert "row of their own" in said


def test_a_student_of_a_short_run_is_called_weak() -> None:
    said = _said(start=VITS14, **LABELLED)
    assert "The student will be weak" in said
    assert "adapted weights themselves are what is registered" in said
    long = " ".join(expectation(plan(wish(start=VITS14, hours=500, **LABELLED), CRAWL, machine(64, gpus=8))))
    assert "weak" not in long
    assert "weak" not in _said(**LABELLED)


def test_much_is_not_called_little() -> None:
    said = " ".join(expectation(plan(wish(hours=500, **LABELLED), CRAWL, machine(64, gpus=8))))
    assert "too little" not in said


def test_what_is_missing_is_named() -> None:
    assert "Without labelled images" in _said()
    assert "Without seeds" in _said()
    assert "Without seeds" not in _said(seeds={"good": "seeds"}, seed_images=10)


def test_dangers_are_named() -> None:
    small = machine(memory=2**30, disk_free_bytes=2**20)
    said = " ".join(warnings(plan(wish(), COLOUR, small)))
    assert "Memory:" in said
    assert "Disk:" in said
    black = pool(900, 512, bits={16: 384}, contrast=0.004, unreadable={"truncated": 96})
    said = " ".join(warnings(plan(wish(), black, machine())))
    assert "almost black" in said
    assert "curation.scan.preflight.value_range" in said
    stretched = pool(900, 512, bits={16: 384}, contrast=0.004, value_range=(0.0, 4095.0))
    assert "almost black" not in " ".join(warnings(plan(wish(), stretched, machine())))
    kinds = {"16-bit integers": (0.0, 4095.0), "floats": (0.0, 1.0)}
    mixed = " ".join(warnings(plan(wish(), pool(900, 512, bits={16: 9, 32: 9}, unlike_kinds=kinds), machine())))
    assert "16-bit integers from 0 to 4,095, floats from 0 to 1" in mixed and "value_range" not in mixed
    assert "25% of the files looked at cannot be used: 96 truncated" in said
    assert warnings(plan(wish(), COLOUR, machine())) == []


def test_times_are_said_as_people_say_them() -> None:
    assert [in_words(hours) for hours in (0.01, 0.5, 1, 1.5, 24)] == [
        "one minute",
        "30 minutes",
        "one hour",
        "1.5 hours",
        "24 hours",
    ]


def test_the_trial_says_how_long_it_takes() -> None:
    """About what it took where it was measured: half a minute for small networks, minutes for released weights."""
    small, large = (expected_seconds(plan(wish(**more), COLOUR, machine())) for more in ({}, {"start": VITS14}))
    assert 20 < small < 120
    assert small < large < 900


def test_hours_that_read_alike_are_not_said_to_differ() -> None:
    made = plan(wish(hours=0.05, **LABELLED), COLOUR, machine())

    def said(seconds: float) -> str:
        stage = made.prediction.stages["curation"].model_copy(update={"seconds": seconds})
        prediction = made.prediction.model_copy(update={"stages": {"curation": stage}})
        return " ".join(expectation(replace(made, prediction=prediction)))

    assert in_words(200 / 3600) == in_words(0.05) == "3 minutes"
    assert "rather than" not in said(200)
    assert "It will take 4 minutes rather than the 3 minutes asked for" in said(240)
