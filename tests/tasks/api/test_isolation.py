"""What must never cross from one account to another. Each test here fails for a change that others did not notice."""

from dataclasses import replace
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import ArtistLink
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tasks.models import Run, RunOwner, Task
from tasks.runs import owners
from tasks.runs.steps import run_steps
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

TASKS, RUNS = "/api/tasks", "/api/tasks/runs"


def api_of(cast: Cast, name: str) -> ContractClient:
    return with_key(make_key(cast.person(name)))


def new_task(cast: Cast, **fields: Any) -> dict[str, Any]:
    return {
        "title": "t",
        "prompt": "p",
        "schedule": "0 9 * * *",
        "artist_account_id": str(cast.artist.pk),
        **fields,
    }


def test_the_callers_own_artists_are_not_those_of_the_account_it_acts_for(cast: Cast) -> None:
    ArtistLink.objects.create(account=cast.bob, artist_account=cast.artist)
    bob = api_of(cast, "bob")
    assert bob.post(TASKS, new_task(cast, account_id=str(cast.alice.pk)), format="json").status_code == 403
    assert bob.post(TASKS, new_task(cast), format="json").status_code == 200


def test_an_admins_filter_lists_its_own_tasks_only(cast: Cast) -> None:
    make_task(cast.alice, cast.artist)
    own = make_task(cast.dora, cast.artist)
    for query in ({"enabled": "true"}, {"artist_account_id": str(cast.artist.pk)}, {"limit": "10"}, {}):
        shown = api_of(cast, "dora").get(TASKS, query).json()["tasks"]
        assert [task["id"] for task in shown] == [str(own.pk)], query


def test_an_idempotency_key_with_another_account_is_another_body(cast: Cast) -> None:
    dora, headers = api_of(cast, "dora"), {"Idempotency-Key": "once"}
    for owner in (cast.alice, cast.bob):
        ArtistLink.objects.create(account=owner, artist_account=cast.artist)
    bodies = [new_task(cast, account_id=str(owner.pk)) for owner in (cast.alice, cast.bob)]
    assert [dora.post(TASKS, body, format="json", headers=headers).status_code for body in bodies] == [200, 409]
    assert Task.objects.get().account == cast.alice


def test_a_schedule_names_the_owner_before_a_payload_does(cast: Cast) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_alices")
    run: Any = {
        "id": "run_a",
        "taskIdentifier": "create-content",
        "schedule": {"id": "sched_alices", "externalId": str(task.pk)},
        "payload": {"accountId": str(cast.charlie.pk)},
    }
    assert owners.owners_of(run) == {cast.alice.pk}


def test_related_runs_of_related_runs_are_not_shown(cast: Cast, trigger: Standin) -> None:
    tags = [f"account:{cast.alice.pk}"]
    run = trigger.state.add_run(StandinRun("create-content", trigger.state.now, tags=tags))
    child = trigger.state.add_run(StandinRun("create-content", trigger.state.now, tags=tags, parent_id=run.id))
    trigger.state.add_run(
        StandinRun("secret", trigger.state.now, "run_secret", tags=[f"account:{cast.charlie.pk}"], parent_id=child.id)
    )
    trigger.state.nests_related = True
    response = api_of(cast, "alice").get(RUNS, {"runId": run.id})
    assert child.id in response.content.decode()
    assert "run_secret" not in response.content.decode()


def test_a_started_run_that_turns_out_to_be_another_accounts_is_not_shown(cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)

    def give_away(request: Request) -> None:
        if request.method == "POST":
            (run,) = trigger.state.newest_runs(schedule_ids=[], tags=[f"task:{task.pk}"], since=0.0)
            trigger.state.remove_run(run.id)
            trigger.state.add_run(replace(run, tags=[f"account:{cast.charlie.pk}"], payload={"secret": "charlies"}))

    trigger.after = give_away
    response = api_of(cast, "alice").post(RUNS, {"id": str(task.pk)}, format="json")
    assert (response.status_code, response.json()["runs_status"]) == (200, "stale")
    assert "charlies" not in response.content.decode()


def test_that_one_caller_may_not_see_a_run_hides_it_from_nobody_else(cast: Cast, trigger: Standin) -> None:
    run = trigger.state.add_run(StandinRun("create-content", trigger.state.now, tags=[f"account:{cast.alice.pk}"]))
    assert api_of(cast, "charlie").get(RUNS, {"runId": run.id}).status_code == 404
    bob = api_of(cast, "bob")
    assert bob.get(RUNS, {"runId": run.id, "account_id": str(cast.bob.pk)}).status_code == 404
    assert bob.get(RUNS, {"runId": run.id, "account_id": str(cast.alice.pk)}).status_code == 200
    assert api_of(cast, "alice").get(RUNS, {"runId": run.id}).status_code == 200


@pytest.mark.parametrize("tags", [[], ["account:{alice}"], ["account:{charlie}"]], ids=["none", "alice", "charlie"])
def test_a_list_that_ignores_its_tag_gives_nobody_another_run(cast: Cast, trigger: Standin, tags: list[str]) -> None:
    task = make_task(cast.alice, cast.artist, run_by_hand_at=timezone.now())
    named = [tag.format(alice=cast.alice.pk, charlie=cast.charlie.pk) for tag in tags]
    trigger.state.add_run(StandinRun("create-content", trigger.state.now, "run_other", tags=named))
    trigger.state.ignores_tags = True
    alice = api_of(cast, "alice")
    (shown,) = alice.get(TASKS).json()["tasks"]
    listed = [run["id"] for run in alice.get(RUNS).json()["runs"]]
    run_steps()
    assert (shown["recent_runs"], Run.objects.filter(task=task).count()) == ([], 0)
    assert listed == (["run_other"] if "account:{alice}" in tags else [])
    assert {owner.account_id for owner in RunOwner.objects.all()} <= {cast.alice.pk, cast.charlie.pk}
