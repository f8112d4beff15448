"""The history: pages, filters, and the task of each listed run."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine

from demo.standin.faults import Fault
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Run, RunOwner, Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks/runs"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def task(cast: Cast, clock: time_machine.Traveller) -> Task:
    """Daily at 9:00."""
    return make_task(cast.alice, cast.artist, trigger_schedule_id="sched_a", title="News", schedule="0 9 * * *")


def add_scheduled(trigger: Standin, task: Task, *, days: int) -> StandinRun:
    schedule = {"id": task.trigger_schedule_id, "externalId": str(task.pk)}
    created = (NOON.replace(hour=9) - timedelta(days=days)).timestamp()
    return trigger.state.add_run(StandinRun("customer-prompt-task", created, schedule=schedule, kind="SCHEDULED"))


def get(api: ContractClient, **query: Any) -> dict[str, Any]:
    response = api.get(PATH, query)
    assert response.status_code == 200, response.content
    body: dict[str, Any] = response.json()
    return body


def ids(body: dict[str, Any]) -> list[str]:
    return [run["id"] for run in body["runs"]]


def test_scheduled_runs_are_listed_with_their_task_and_others_without(
    alice_api: ContractClient, cast: Cast, task: Task, trigger: Standin
) -> None:
    scheduled = add_scheduled(trigger, task, days=1)
    tagged = trigger.state.add_run(StandinRun("t", trigger.state.now - 99, tags=[f"account:{cast.alice.pk}"]))
    body = get(alice_api)
    assert ids(body) == [tagged.id, scheduled.id]
    assert [(run["task_id"], run["title"]) for run in body["runs"]] == [(None, None), (str(task.pk), "News")]
    assert "next_cursor" not in body


def test_a_run_that_was_started_now_is_in_both_lists_when_its_post_is_answered(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    """Also where Trigger.dev's list does not have it yet."""
    get(alice_api)
    trigger.faults.add(Fault("status", path="/api/v1/runs"))
    (run,) = alice_api.post(PATH, {"id": str(task.pk)}, format="json").json()["runs"]
    (shown,) = alice_api.get("/api/tasks").json()["tasks"]
    assert ids(get(alice_api)) == [run["id"]] == [recent["id"] for recent in shown["recent_runs"]]


def test_pages_have_each_run_once_also_when_runs_come_and_share_a_time(
    alice_api: ContractClient, cast: Cast, task: Task, trigger: Standin
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    runs = [trigger.state.add_run(StandinRun("t", trigger.state.now - n // 3, tags=tags)) for n in range(30)]
    seen, cursor = list[str](), ""
    body = get(alice_api, limit=7, created_before="2027-01-01T00:00:00Z")
    while True:
        seen += ids(body)
        cursor = body["next_cursor"]
        if cursor is None:
            break
        newer = trigger.state.add_run(StandinRun("t", trigger.state.now + 60, tags=tags))
        alice_api.get(PATH, {"runId": newer.id})
        body = get(alice_api, limit=7, created_before="2027-01-01T00:00:00Z", cursor=cursor)
    assert sorted(seen) == sorted(run.id for run in runs)
    assert len(set(seen)) == 30


@pytest.mark.parametrize(
    ("query", "days"),
    [
        ({"created_after": "2026-11-22T09:00:00Z"}, [0, 1, 2]),
        ({"created_after": "2026-11-22T10:00:00+01:00"}, [0, 1, 2]),
        ({"created_before": "2026-11-22T09:00:00Z"}, [3, 4]),
        ({"created_after": "2026-11-21T00:00:00Z", "created_before": "2026-11-23T00:00:00Z"}, [2, 3]),
        ({"status": "COMPLETED"}, [0, 1, 2, 3, 4]),
        ({"status": "FAILED,CRASHED"}, []),
        ({"status": "FAILED,COMPLETED", "created_after": "2026-11-24T00:00:00Z"}, [0]),
        ({"task_id": "own"}, [0, 1, 2, 3, 4]),
        ({"task_id": "own", "created_before": "2026-11-21T00:00:00Z"}, [4]),
        ({"task_id": "own", "status": "QUEUED"}, []),
    ],
)
def test_filters_alone_and_together(
    alice_api: ContractClient, task: Task, trigger: Standin, query: dict[str, str], days: list[int]
) -> None:
    runs = [add_scheduled(trigger, task, days=day) for day in range(5)]
    query = {name: str(task.pk) if value == "own" else value for name, value in query.items()}
    body = get(alice_api, **query)
    assert ids(body) == [runs[day].id for day in days]
    assert body["next_cursor"] is None


def test_pages_of_one_task(alice_api: ContractClient, cast: Cast, task: Task, trigger: Standin) -> None:
    other = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_b", schedule="0 9 * * *")
    runs = [add_scheduled(trigger, task, days=day) for day in range(5)]
    add_scheduled(trigger, other, days=1)
    first = get(alice_api, task_id=task.pk, limit=3)
    second = get(alice_api, task_id=task.pk, limit=3, cursor=first["next_cursor"])
    assert ids(first) + ids(second) == [run.id for run in runs]
    assert second["next_cursor"] is None


def test_the_history_of_anothers_task_is_empty(cast: Cast, task: Task, trigger: Standin) -> None:
    add_scheduled(trigger, task, days=1)
    assert ids(get(with_key(make_key(cast.alice)), task_id=task.pk)) != []
    for person, query in ((cast.charlie, {}), (cast.bob, {}), (cast.dora, {"account_id": cast.charlie.pk})):
        assert ids(get(with_key(make_key(person)), task_id=task.pk, **query)) == []
    shared = get(with_key(make_key(cast.bob)), task_id=task.pk, account_id=cast.alice.pk)
    assert len(shared["runs"]) == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"status": "DONE"}, "status must be a list with commas of PENDING_VERSION"),
        ({"status": "COMPLETED,"}, "status must be a list"),
        ({"status": "completed"}, "status must be a list"),
        ({"created_after": "yesterday"}, "created_after must be a time with a time zone"),
        ({"created_before": "2026-11-22T09:00:00"}, "created_before must be a time with a time zone"),
        ({"created_before": "0001-01-01T00:00:00+14:00"}, "created_before must be a time with a time zone"),
        ({"cursor": "x"}, "cursor must be the next_cursor of an earlier answer"),
        ({"cursor": "MS7DqQ"}, "cursor must be"),
        ({"task_id": "1"}, "task_id must be a UUID"),
        ({"runId": "run_x", "status": "FAILED"}, "status is for a list of runs"),
        ({"runId": "run_x", "cursor": "x"}, "cursor is for a list of runs"),
    ],
)
def test_a_filter_that_cannot_be_is_a_400_that_names_it(
    alice_api: ContractClient, query: dict[str, str], message: str
) -> None:
    response = alice_api.get(PATH, query)
    assert response.status_code == 400
    assert response.json()["error"].startswith(message)


# --- Bad runs --------------------------------------------------------------------------------------------------------


def test_a_listed_run_that_cannot_be_stored_hides_no_other(
    alice_api: ContractClient, cast: Cast, trigger: Standin, clock: time_machine.Traveller
) -> None:
    tags = [f"account:{cast.alice.pk}"]
    good = trigger.state.add_run(StandinRun("t", trigger.state.now - 60, tags=tags))
    nested: dict[str, Any] = {}
    for _ in range(300):
        nested = {"a": nested}
    for odd in ({"n": 10**4200}, nested, {"text": "x" * 1_000_000}, {"half": "\ud83d"}):
        trigger.state.add_run(StandinRun("t", trigger.state.now - 40, tags=tags, metadata=odd))
    body = get(alice_api)
    assert good.id in ids(body)
    assert sum(len(json.dumps(run)) for run in body["runs"]) < 200_000


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "{}",
        '{"id": "x"} ',
        '{"id": NaN}',
        "null",
        "[1]",
        '{"id": 1}}',
        "\ud83d".encode("utf-8", "replace").decode(),
    ],
)
def test_a_damaged_row_never_breaks_an_account(
    alice_api: ContractClient, task: Task, trigger: Standin, data: str
) -> None:
    good, damaged = (add_scheduled(trigger, task, days=day) for day in (1, 2))
    get(alice_api)
    Run.objects.filter(pk=damaged.id).update(data=data)
    Task.objects.update(next_poll_at=None, polled_at=None)
    assert ids(get(alice_api)) == [good.id]
    (shown,) = alice_api.get("/api/tasks").json()["tasks"]
    assert good.id in [run["id"] for run in shown["recent_runs"]]


def test_a_run_of_two_accounts_is_in_both_lists(cast: Cast, trigger: Standin) -> None:
    tags = [f"account:{person.pk}" for person in (cast.alice, cast.charlie)]
    run = trigger.state.add_run(StandinRun("t", trigger.state.now - 60, tags=tags))
    for person in (cast.alice, cast.charlie):
        assert ids(get(with_key(make_key(person)))) == [run.id]
    assert RunOwner.objects.count() == 2
