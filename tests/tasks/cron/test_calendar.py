"""When a task can have fired, before and after a change of its cron expression."""

from datetime import UTC, datetime, timedelta

from tasks.cron.calendar import Fire, Period, change, confirm, fires, from_json, learn, shifted, to_json

NINE = datetime(2026, 11, 26, 9, tzinfo=UTC)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-26T{text}Z")


def times(periods: list[Period], since: str, until: str) -> list[tuple[str, bool]]:
    found = fires(periods, since=at(since), until=at(until))
    return [(f"{fire.at:%H:%M}", fire.is_certain) for fire in found if fire.at <= at(until)]


def confirmed(schedule: str, *, since: datetime) -> list[Period]:
    return confirm(change([], schedule, "UTC", at=since), at=since)


def test_a_confirmed_expression_fires_for_certain_and_the_next_fire_is_known() -> None:
    periods = confirmed("0 9 * * *", since=NINE - 30 * DAY)
    assert fires(periods, since=NINE, until=NINE) == [Fire(NINE, True), Fire(NINE + DAY, True)]


def test_an_unconfirmed_expression_may_fire() -> None:
    assert times(change([], "0 * * * *", "UTC", at=at("08:30:00")), "08:00:00", "10:30:00") == [
        ("09:00", False),
        ("10:00", False),
    ]


def test_near_a_change_fires_of_both_expressions_are_possible_and_none_is_certain() -> None:
    periods = change(confirmed("0 * * * *", since=NINE - DAY), "30 * * * *", "UTC", at=at("09:00:01"))
    assert times(periods, "08:00:00", "10:30:00") == [
        ("08:00", True),
        ("09:00", False),
        ("09:30", False),
        ("10:00", False),
        ("10:30", False),
    ]


def test_a_minute_after_the_confirmation_only_the_new_expression_fires() -> None:
    periods = change(confirmed("0 * * * *", since=NINE - DAY), "30 * * * *", "UTC", at=at("09:10:00"))
    assert times(confirm(periods, at=at("09:10:05")), "09:00:00", "11:00:00") == [
        ("09:00", True),
        ("09:30", True),
        ("10:30", True),
    ]


def test_a_paused_task_fires_no_more_a_minute_after_the_pause_was_confirmed() -> None:
    periods = confirm(
        change(confirmed("* * * * *", since=NINE - DAY), None, "UTC", at=at("09:10:30")), at=at("09:10:40")
    )
    assert times(periods, "09:10:00", "09:20:00") == [("09:10", True), ("09:11", False)]


def test_an_expression_that_is_invalid_never_fires() -> None:
    assert fires([Period("0 0 30 2 *", "UTC"), Period("0 9 * * *", "Mars/Base")], since=NINE, until=NINE + DAY) == []


def test_periods_survive_json_and_old_ones_are_dropped() -> None:
    periods = change(confirmed("0 * * * *", since=NINE - DAY), "30 * * * *", "Europe/Paris", at=NINE)
    assert from_json(to_json(periods)) == periods
    later = confirm(periods, at=NINE)
    assert [period.schedule for period in change(later, "5 * * * *", "UTC", at=NINE + DAY)] == [
        "30 * * * *",
        "5 * * * *",
    ]


HOUR = timedelta(hours=1)


def shift_after(periods: list[Period], *ran: datetime) -> timedelta:
    return timedelta(seconds=learn(periods, ran)[-1].shift)


def test_a_run_at_a_time_of_neither_calendar_shows_the_shift() -> None:
    daily = confirmed("0 9 * * *", since=NINE - 30 * DAY)
    assert shift_after(daily, NINE) == timedelta()
    assert shift_after(daily, NINE + HOUR) == HOUR
    assert shift_after(daily, NINE - HOUR) == -HOUR
    assert shift_after(daily, NINE + 9 * HOUR) == timedelta(), "too far for rules of a time zone"
    assert shift_after(learn(daily, [NINE + HOUR]), NINE + DAY + 2 * HOUR) == 2 * HOUR, "measured from our own times"


def test_a_shift_ends_with_a_run_at_our_time_alone_from_after_it_was_learned() -> None:
    daily = shifted(confirmed("0 9 * * *", since=NINE - 30 * DAY), HOUR, at=NINE + timedelta(minutes=20))
    assert shift_after(daily, NINE) == HOUR, "that run came before"
    assert shift_after(daily, NINE + DAY + HOUR) == HOUR
    assert shift_after(daily, NINE + DAY) == timedelta()
    ended = learn(daily, [NINE + DAY])
    assert [fire.is_certain for fire in fires(ended, since=NINE, until=NINE + DAY)] == [False, True, True]


def test_a_shift_of_hourly_times_does_not_flap() -> None:
    """Trigger.dev fires from 10 to 18 o'clock, we think from 9 to 17."""
    hourly = learn(confirmed("0 9-17 * * *", since=NINE - 30 * DAY), [NINE + hour * HOUR for hour in range(1, 10)])
    assert timedelta(seconds=hourly[-1].shift) == HOUR
    assert shift_after(hourly, *(NINE + DAY + hour * HOUR for hour in range(1, 10))) == HOUR
    assert shift_after(hourly, NINE + 2 * DAY) == timedelta()


def test_runs_of_an_expression_from_before_show_nothing() -> None:
    periods = confirmed("7 * * * *", since=NINE)
    assert shift_after(periods, NINE - HOUR) == timedelta()
    assert shift_after(change([], "7 * * * *", "UTC", at=NINE), NINE + HOUR) == timedelta(), "not confirmed yet"
