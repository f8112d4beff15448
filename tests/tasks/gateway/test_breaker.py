"""CircuitBreaker: when it opens, when a trial starts, and when it closes."""

from tasks.gateway.breaker import MAX_FAILURES, PAUSE, TRIAL_TIMEOUT, CircuitBreaker


def breaker_after_failures(*, at: float, times: int = MAX_FAILURES) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(times):
        breaker.record_failure(now=at, is_trial=False)
    return breaker


def test_consecutive_failures_open_the_circuit_breaker() -> None:
    assert not breaker_after_failures(at=100, times=MAX_FAILURES - 1).is_open
    assert breaker_after_failures(at=100).is_open


def test_a_success_between_failures_keeps_the_circuit_breaker_closed() -> None:
    breaker = breaker_after_failures(at=100, times=MAX_FAILURES - 1)
    breaker.record_success()
    breaker.record_failure(now=100, is_trial=False)
    assert not breaker.is_open


def test_failures_on_different_days_are_not_consecutive() -> None:
    breaker = CircuitBreaker()
    for day in range(20):
        breaker.record_failure(now=100 + 86_400 * day, is_trial=False)
    assert not breaker.is_open


def test_a_closed_circuit_breaker_needs_no_trial() -> None:
    assert not CircuitBreaker().start_trial(now=100)


def test_after_the_pause_exactly_one_trial_starts() -> None:
    breaker = breaker_after_failures(at=100)
    assert (breaker.seconds_left(now=101), breaker.start_trial(now=101)) == (PAUSE - 1, False)
    assert [breaker.start_trial(now=100 + PAUSE) for _ in range(3)] == [True, False, False]


def test_a_failed_trial_starts_the_next_pause() -> None:
    breaker = breaker_after_failures(at=100)
    assert breaker.start_trial(now=103)
    breaker.record_failure(now=104, is_trial=True)
    assert breaker.seconds_left(now=104) == PAUSE
    assert not breaker.start_trial(now=105)
    assert breaker.start_trial(now=104 + PAUSE)


def test_a_successful_trial_closes_the_circuit_breaker() -> None:
    breaker = breaker_after_failures(at=100)
    breaker.start_trial(now=103)
    breaker.record_success()
    assert (breaker.is_open, breaker.seconds_left(now=103)) == (False, 0.0)


def test_after_closing_it_takes_the_full_number_of_failures_to_open_again() -> None:
    breaker = breaker_after_failures(at=100)
    breaker.record_success()
    for _ in range(MAX_FAILURES - 1):
        breaker.record_failure(now=101, is_trial=False)
    assert not breaker.is_open


def test_a_trial_that_never_reports_is_followed_by_another_after_its_timeout() -> None:
    breaker = breaker_after_failures(at=100)
    assert breaker.start_trial(now=103)
    assert not breaker.start_trial(now=103 + TRIAL_TIMEOUT - 0.1)
    assert breaker.start_trial(now=103 + TRIAL_TIMEOUT)


def test_a_cancelled_trial_is_left_to_the_next_call() -> None:
    breaker = breaker_after_failures(at=100)
    assert breaker.start_trial(now=103)
    breaker.cancel_trial()
    assert breaker.start_trial(now=103)


def test_a_late_failure_of_an_earlier_call_does_not_extend_the_pause() -> None:
    breaker = breaker_after_failures(at=100)
    breaker.record_failure(now=101.5, is_trial=False)
    assert breaker.start_trial(now=100 + PAUSE)


def test_a_late_success_of_an_earlier_call_closes_the_circuit_breaker() -> None:
    breaker = breaker_after_failures(at=100)
    breaker.record_success()
    assert not breaker.is_open


def test_a_clock_that_is_set_back_does_not_extend_the_pause() -> None:
    assert breaker_after_failures(at=100_000).start_trial(now=100)
