"""Whose run it is: tags, else the schedule, else a trusted payload, else nobody's."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from tasks.runs.owners import owners_of
from tasks.trigger.types import Run
from tests.cast import Cast, make_task


def run(**fields: Any) -> Run:
    made: Any = {
        "id": "run_x",
        "status": "COMPLETED",
        "taskIdentifier": "t",
        "createdAt": "",
        "updatedAt": "",
        **fields,
    }
    return made


def scheduled(**schedule: Any) -> Run:
    return run(taskIdentifier="customer-prompt-task", schedule=schedule)


def test_tags_name_its_owners_any_of_them(cast: Cast) -> None:
    tags = [
        f"account:{cast.alice.pk}",
        f"account:{str(cast.bob.pk).upper()}",
        "account:x",
        f"task:{uuid4()}",
        "account:",
    ]
    assert owners_of(run(tags=tags)) == {cast.alice.pk, cast.bob.pk}


def test_tags_win_over_the_schedule(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist)
    tagged: Any = {**scheduled(id="sched_x", externalId=str(task.pk)), "tags": [f"account:{cast.bob.pk}"]}
    assert owners_of(tagged) == {cast.bob.pk}


def test_the_schedule_names_the_task_by_external_id_or_id(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    assert owners_of(scheduled(id="sched_y", externalId=str(task.pk))) == {cast.alice.pk}
    assert owners_of(scheduled(id="sched_x")) == {cast.alice.pk}


def test_a_deleted_task_still_says_whose_runs_those_were(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x", deleted_at=timezone.now(), title="", prompt="")
    assert owners_of(scheduled(id="sched_x")) == {cast.alice.pk}


def test_after_the_schedule_is_deleted_the_payload_still_names_it(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x", deleted_at=timezone.now())
    payload = {"scheduleId": "sched_x", "externalId": str(task.pk), "type": "IMPERATIVE"}
    assert owners_of(run(taskIdentifier="customer-prompt-task", payload=payload)) == {cast.alice.pk}


def test_the_payload_of_any_other_task_could_have_been_written_by_anybody(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    payload = {"scheduleId": "sched_x", "externalId": str(task.pk), "accountId": str(cast.alice.pk)}
    assert owners_of(run(taskIdentifier="setup-sandbox", payload=payload)) == set()


def test_a_schedule_id_and_an_external_id_that_contradict_prove_nothing(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    other = make_task(cast.charlie, cast.artist)
    assert owners_of(scheduled(id="sched_x", externalId=str(other.pk))) == set()


def test_a_trusted_task_may_name_its_account_in_the_payload() -> None:
    account_id = UUID("3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11")
    assert owners_of(run(taskIdentifier="create-content", payload={"accountId": str(account_id)})) == {account_id}


@pytest.mark.parametrize("payload", [None, [], "x", {}, {"accountId": 1}, {"accountId": "{" + "0" * 32 + "}"}])
def test_a_payload_without_an_account_names_nobody(payload: object) -> None:
    assert owners_of(run(taskIdentifier="create-content", payload=payload)) == set()


@pytest.mark.parametrize("schedule", [None, [], "sched_x", {}, {"id": 1}, {"externalId": "x"}, {"id": None}])
def test_a_broken_schedule_names_nobody(schedule: Any, db: None) -> None:
    assert owners_of(run(schedule=schedule)) == set()
