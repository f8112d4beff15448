"""Which accounts own a run: by its tags, else by its schedule, else by a trusted payload, else none."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from tasks.runs.owners import owners_of
from tasks.trigger.types import Run
from tests.cast import Cast, make_task


def make_run(**fields: Any) -> Run:
    values: Any = {
        "id": "run_x",
        "status": "COMPLETED",
        "taskIdentifier": "t",
        "createdAt": "",
        "updatedAt": "",
        **fields,
    }
    return values


def make_scheduled_run(**schedule: Any) -> Run:
    return make_run(taskIdentifier="customer-prompt-task", schedule=schedule)


def test_every_account_tag_names_an_owner(cast: Cast) -> None:
    tags = [
        f"account:{cast.alice.pk}",
        f"account:{str(cast.bob.pk).upper()}",
        "account:x",
        f"task:{uuid4()}",
        "account:",
    ]
    assert owners_of(make_run(tags=tags)) == {cast.alice.pk, cast.bob.pk}


def test_a_tag_that_names_no_account_gives_the_run_to_nobody(cast: Cast) -> None:
    """Lists go by the tags too: both answers are the same."""
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    tagged: Any = {**make_scheduled_run(id="sched_x", externalId=str(task.pk)), "tags": ["account:nobody"]}
    assert owners_of(tagged) == set()


def test_tags_take_precedence_over_the_schedule(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    tagged: Any = {**make_scheduled_run(id="sched_x", externalId=str(task.pk)), "tags": [f"account:{cast.bob.pk}"]}
    assert owners_of(tagged) == {cast.bob.pk}


def test_a_schedule_names_the_task_by_external_id_or_schedule_id(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    assert owners_of(make_scheduled_run(id="sched_y", externalId=str(task.pk))) == {cast.alice.pk}
    assert owners_of(make_scheduled_run(id="sched_x")) == {cast.alice.pk}


def test_runs_of_a_deleted_task_still_belong_to_its_account(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x", deleted_at=timezone.now(), title="", prompt="")
    assert owners_of(make_scheduled_run(id="sched_x")) == {cast.alice.pk}


def test_runs_of_a_deleted_schedule_are_owned_through_the_payload(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x", deleted_at=timezone.now())
    payload = {"scheduleId": "sched_x", "externalId": str(task.pk), "type": "IMPERATIVE"}
    assert owners_of(make_run(taskIdentifier="customer-prompt-task", payload=payload)) == {cast.alice.pk}


def test_the_payload_of_an_untrusted_task_names_no_owner(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    payload = {"scheduleId": "sched_x", "externalId": str(task.pk), "accountId": str(cast.alice.pk)}
    assert owners_of(make_run(taskIdentifier="setup-sandbox", payload=payload)) == set()


def test_a_schedule_id_that_contradicts_the_external_id_names_no_owner(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    other = make_task(cast.charlie, cast.artist)
    assert owners_of(make_scheduled_run(id="sched_x", externalId=str(other.pk))) == set()


def test_the_payload_of_a_trusted_task_names_the_account() -> None:
    account_id = UUID("3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11")
    assert owners_of(make_run(taskIdentifier="create-content", payload={"accountId": str(account_id)})) == {account_id}


@pytest.mark.parametrize("payload", [None, [], "x", {}, {"accountId": 1}, {"accountId": "{" + "0" * 32 + "}"}])
def test_a_payload_without_an_account_names_no_owner(payload: object) -> None:
    assert owners_of(make_run(taskIdentifier="create-content", payload=payload)) == set()


@pytest.mark.parametrize("schedule", [None, [], "sched_x", {}, {"id": 1}, {"externalId": "x"}, {"id": None}])
def test_a_malformed_schedule_names_no_owner(schedule: Any, db: None) -> None:
    assert owners_of(make_run(schedule=schedule)) == set()
