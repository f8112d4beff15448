"""The circuit breaker: when to stop calling, and when to try again."""

from tasks.gateway.breaker import MAX_FAILURES, PAUSE, TRIAL_TIMEOUT, CircuitBreaker


def failed(*, at: float, times: int = MAX_FAILURES) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(times):
        breaker.record_failure(now=at, is_trial=False)
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    assert not failed(at=100, times=MAX_FAILURES - 1).is_open
    assert failed(at=100).is_open


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = failed(at=100, times=MAX_FAILURES - 1)
    breaker.record_success()
    breaker.record_failure(now=100, is_trial=False)
    assert not breaker.is_open


def test_failures_of_different_days_are_not_in_a_row() -> None:
    breaker = CircuitBreaker()
    for day in range(20):
        breaker.record_failure(now=100 + 86_400 * day, is_trial=False)
    assert not breaker.is_open


def test_a_closed_one_needs_no_trial() -> None:
    assert not CircuitBreaker().start_trial(now=100)


def test_after_its_pause_one_trial_starts_and_no_second_one() -> None:
    breaker = failed(at=100)
    assert (breaker.seconds_left(now=101), breaker.start_trial(now=101)) == (PAUSE - 1, False)
    assert [breaker.start_trial(now=100 + PAUSE) for _ in range(3)] == [True, False, False]


def test_a_trial_that_fails_starts_the_next_pause() -> None:
    breaker = failed(at=100)
    assert breaker.start_trial(now=103)
    breaker.record_failure(now=104, is_trial=True)
    assert breaker.seconds_left(now=104) == PAUSE
    assert not breaker.start_trial(now=105)
    assert breaker.start_trial(now=104 + PAUSE)


def test_a_trial_that_succeeds_closes_it() -> None:
    breaker = failed(at=100)
    breaker.start_trial(now=103)
    breaker.record_success()
    assert (breaker.is_open, breaker.seconds_left(now=103)) == (False, 0.0)


def test_after_it_closed_it_takes_as_many_failures_to_open_again() -> None:
    breaker = failed(at=100)
    breaker.record_success()
    for _ in range(MAX_FAILURES - 1):
        breaker.record_failure(now=101, is_trial=False)
    assert not breaker.is_open


def test_a_trial_that_was_lost_is_followed_by_another_one() -> None:
    breaker = failed(at=100)
    assert breaker.start_trial(now=103)
    assert not breaker.start_trial(now=103 + TRIAL_TIMEOUT - 0.1)
    assert breaker.start_trial(now=103 + TRIAL_TIMEOUT)


def test_a_trial_that_was_not_sent_is_left_to_the_next_call() -> None:
    breaker = failed(at=100)
    assert breaker.start_trial(now=103)
    breaker.cancel_trial()
    assert breaker.start_trial(now=103)


def test_a_late_failure_of_an_earlier_call_does_not_make_the_pause_longer() -> None:
    breaker = failed(at=100)
    breaker.record_failure(now=101.5, is_trial=False)
    assert breaker.start_trial(now=100 + PAUSE)


def test_a_late_success_of_an_earlier_call_closes_it() -> None:
    breaker = failed(at=100)
    breaker.record_success()
    assert not breaker.is_open


def test_a_clock_that_goes_back_makes_no_pause_of_hours() -> None:
    assert failed(at=100_000).start_trial(now=100)
