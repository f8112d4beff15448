"""When to stop asking, and when to try again."""

from collections.abc import Callable

import pytest

from tasks.gateway.breaker import FAILURES, PAUSE, TRIAL, TRYING, Admission, Breaker, Breakers, Failure
from tasks.trigger.client import PROBES, Route

SILENT, BAD = Failure.SILENT, Failure.BAD

# --- One breaker -----------------------------------------------------------------------------------------------------


def opened(*, at: float) -> Breaker:
    breaker = Breaker()
    assert [breaker.fail(now=at) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    breaker.open(SILENT, now=at)
    return breaker


def test_a_breaker_should_open_after_failures_in_a_row_only() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.fail(now=100)
    assert breaker.succeed(now=100, is_trial=False) is False
    assert not breaker.fail(now=100)


def test_failures_of_different_days_are_not_in_a_row() -> None:
    breaker = Breaker()
    assert not any(breaker.fail(now=100 + 86_400 * day) for day in range(20))


def test_after_its_pause_one_trial_is_begun_and_no_second_one() -> None:
    breaker = opened(at=100)
    assert (breaker.seconds_left(now=101), breaker.begin_trial(now=101)) == (PAUSE - 1, False)
    assert [breaker.begin_trial(now=100 + PAUSE) for _ in range(3)] == [True, False, False]


def test_a_trial_that_fails_is_followed_by_another_pause() -> None:
    breaker = opened(at=100)
    assert breaker.begin_trial(now=103)
    assert breaker.end_trial()
    breaker.open(SILENT, now=104)
    assert breaker.seconds_left(now=104) == PAUSE
    assert not breaker.begin_trial(now=105)


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = opened(at=100)
    breaker.begin_trial(now=103)
    assert (breaker.succeed(now=103, is_trial=True), breaker.is_open) == (True, False)


def test_a_trial_that_was_lost_is_followed_by_another_one() -> None:
    breaker = opened(at=100)
    assert breaker.begin_trial(now=103)
    assert breaker.begin_trial(now=103 + TRIAL)


def test_what_was_asked_before_and_fails_late_makes_no_longer_pause() -> None:
    breaker = opened(at=100)
    breaker.fail(now=101.5)
    assert breaker.begin_trial(now=102)


def test_a_clock_that_is_set_back_makes_no_pause_of_hours() -> None:
    assert opened(at=100_000).begin_trial(now=100)


# --- One for each kind of question -----------------------------------------------------------------------------------


def breakers() -> Breakers:
    return Breakers(PROBES)


def fail(several: Breakers, route: Route, failure: Failure, *, at: float, times: int = FAILURES) -> tuple[Route, ...]:
    """What should be tried after the last of several failures in a row."""
    for _ in range(times):
        trials = several.learn(route, failure, is_trial=False, now=at)
    return trials


def end_trials(several: Breakers, trials: tuple[Route, ...], *, at: float, silent: tuple[Route, ...]) -> None:
    for route in trials:
        several.learn(route, SILENT if route in silent else None, is_trial=True, now=at)


def away(*, at: float) -> Breakers:
    several = breakers()
    end_trials(several, fail(several, "runs", SILENT, at=at), at=at, silent=("runs", "run", "schedules"))
    return several


def admitted(several: Breakers, *, at: float) -> list[Route]:
    routes: list[Route] = ["runs", "run", "schedules", "trigger"]
    return [route for route in routes if several.admit(route, now=at).is_admitted]


def test_when_one_kind_is_silent_all_are_left_alone_until_one_question_of_each_has_told() -> None:
    several = breakers()
    assert set(fail(several, "runs", SILENT, at=100)) == {"runs", "run", "schedules"}
    assert admitted(several, at=100.1) == []
    end_trials(several, ("run", "schedules"), at=100.1, silent=())
    assert admitted(several, at=100.1) == ["run", "schedules", "trigger"]


def test_when_all_are_silent_nothing_is_asked_and_no_run_is_started() -> None:
    several = away(at=100)
    assert several.is_away()
    assert admitted(several, at=101) == []


@pytest.mark.parametrize("hangs", ["runs", "run", "schedules"])
def test_one_kind_that_hangs_leaves_the_others_asked_however_long_it_does(hangs: Route) -> None:
    """Also where nobody asks anything else, so that every question fails."""
    several, at = breakers(), 100.0
    trials = fail(several, hangs, SILENT, at=at)
    for _ in range(50):
        end_trials(several, trials, at=at, silent=(hangs,))
        others = [route for route in ("runs", "run", "schedules", "trigger") if route != hangs]
        assert admitted(several, at=at) == others
        at += PAUSE
        trials = several.admit(hangs, now=at).trials
        assert trials == (hangs,)


def test_a_few_things_that_hang_close_nothing_for_long() -> None:
    """Their kind is tried at once, without a pause, by a question for something else."""
    several = breakers()
    end_trials(several, fail(several, "run", SILENT, at=100), at=100.1, silent=())
    assert admitted(several, at=100.2) == ["runs", "run", "schedules", "trigger"]


def test_bad_answers_close_their_kind_only_where_a_trial_fails_too() -> None:
    several = breakers()
    assert fail(several, "run", BAD, at=100) == ("run",)
    assert several.admit("run", now=100).is_admitted
    assert several.learn("run", BAD, is_trial=True, now=100) == ()
    assert admitted(several, at=101) == ["runs", "schedules", "trigger"]


def test_starting_runs_alone_failing_is_tried_by_one_real_start_after_each_pause() -> None:
    several = breakers()
    end_trials(several, fail(several, "trigger", SILENT, at=100), at=100, silent=())
    for at in (100 + PAUSE, 100 + 2 * PAUSE):
        assert not several.admit("trigger", now=at - 0.1).is_admitted
        first, second = (several.admit("trigger", now=at) for _ in range(2))
        assert (first.is_trial, second) == (True, Admission(False, TRYING))
        several.learn("trigger", SILENT, is_trial=True, now=at)
    several.learn("trigger", None, is_trial=False, now=105)
    assert several.admit("trigger", now=105).is_admitted


def test_runs_that_cannot_be_started_stop_nobody_from_starting_others() -> None:
    several = breakers()
    assert fail(several, "trigger", BAD, at=100, times=50) == ()
    assert several.admit("trigger", now=100).is_admitted


@pytest.mark.parametrize("begun", [lambda several: several.admit("run", now=103), lambda several: None])
def test_when_one_kind_answers_again_the_others_are_tried_at_once(begun: Callable[[Breakers], object]) -> None:
    """But for one that is being tried already."""
    several = away(at=100)
    trials = several.admit("runs", now=103).trials
    under_way = begun(several)
    assert trials == ("runs",)
    rest = several.learn("runs", None, is_trial=True, now=103)
    assert set(rest) == ({"schedules"} if under_way else {"run", "schedules"})
    end_trials(several, ("run", "schedules"), at=103, silent=())
    assert not several.has_open()


def test_while_only_runs_are_to_be_started_somebody_tries_too() -> None:
    several = away(at=100)
    assert set(several.admit("trigger", now=100 + PAUSE).trials) == {"runs", "run", "schedules"}
    assert several.admit("trigger", now=100 + PAUSE) == Admission(False, TRYING)


def test_a_kind_whose_trial_says_nothing_about_what_is_asked_rests_all_the_same() -> None:
    """The one question of a trial is answered each time, and no other one is."""
    several, at, asked = breakers(), 100.0, 0
    end_trials(several, fail(several, "runs", SILENT, at=at), at=at, silent=())
    for _ in range(1000):
        at += 0.1
        admission = several.admit("runs", now=at)
        end_trials(several, admission.trials, at=at, silent=())
        if admission.is_admitted:
            asked += 1
            end_trials(several, several.learn("runs", SILENT, is_trial=False, now=at), at=at, silent=())
    assert asked <= 1000 * 0.1 / PAUSE * FAILURES


def test_what_has_just_answered_is_not_left_alone_for_the_silence_of_another_kind() -> None:
    several = breakers()
    several.learn("schedules", None, is_trial=False, now=99)
    assert set(fail(several, "run", SILENT, at=100)) == {"runs", "run", "schedules"}
    assert admitted(several, at=100.1) == ["schedules", "trigger"]


def test_a_trial_that_an_answer_has_overtaken_proves_nothing() -> None:
    several = breakers()
    trials = fail(several, "runs", SILENT, at=100)
    several.learn("runs", None, is_trial=False, now=101)
    end_trials(several, trials, at=102, silent=("runs",))
    assert admitted(several, at=102) == ["runs", "run", "schedules", "trigger"]


def test_a_trial_that_was_not_sent_is_the_next_ones() -> None:
    several = away(at=100)
    assert [several.admit("runs", now=103).trials for _ in range(2)] == [("runs",), ()]
    several.give_back("runs")
    assert several.admit("runs", now=103).trials == ("runs",)


def test_bad_answers_of_all_kinds_keep_no_run_from_being_started() -> None:
    several = breakers()
    for route in PROBES:
        end = fail(several, route, BAD, at=100)
        several.learn(route, BAD, is_trial=end == (route,), now=100)
    assert admitted(several, at=101) == ["trigger"]
