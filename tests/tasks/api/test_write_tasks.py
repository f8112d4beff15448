"""POST, PATCH and DELETE /api/tasks: what they change here and at Trigger.dev, and what they refuse."""

import json
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone
from pytest_django import Settings

from accounts.models import ArtistLink, Membership, Organization
from demo.standin.faults import Fault
from demo.standin.messages import Request
from demo.standin.standin import Standin
from demo.standin.state import StandinSchedule
from recoup.wsgi import with_length
from tasks import writes
from tasks.models import Task
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks"
SCHEDULES = "/api/v1/schedules*"


@pytest.fixture(autouse=True)
def linked(cast: Cast) -> None:
    """The label works with the artist."""
    ArtistLink.objects.create(artist_account=cast.artist, organization=Organization.objects.get(name="Label"))


def body(cast: Cast, **changes: Any) -> dict[str, Any]:
    made = {
        "title": "Report",
        "prompt": "Write it.",
        "schedule": "0 9 * * 1-5",
        "artist_account_id": str(cast.artist.pk),
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not ...}


def send(api: ContractClient, method: str, data: Any, query: str = "") -> Any:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return api.generic(method, f"{PATH}{query}", raw, content_type="application/json")  # type: ignore[arg-type]


def made(api: ContractClient, cast: Cast, **changes: Any) -> Any:
    response = send(api, "POST", body(cast, **changes))
    assert response.status_code == 200, response.content
    return response.json()["tasks"][0]


def changed(api: ContractClient, task: Any, **changes: Any) -> Any:
    response = send(api, "PATCH", {"id": task["id"], **changes})
    assert response.status_code == 200, response.content
    return response.json()["tasks"][0]


def schedule_of(trigger: Standin, task: Any) -> StandinSchedule:
    found = trigger.state.schedule(task["id"])
    assert found is not None
    return found


# --- Creating --------------------------------------------------------------------------------------------------------


def test_a_created_task_has_its_schedule_at_once(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    task = made(alice_api, cast, timezone="Europe/Paris", model="gpt-5")
    assert (task["account_id"], task["enabled"], task["sync_status"]) == (str(cast.alice.pk), True, "in_sync")
    schedule = schedule_of(trigger, task)
    assert task["trigger_schedule_id"] == schedule.id
    assert (schedule.cron, schedule.timezone, schedule.external_id, schedule.active) == (
        "0 9 * * 1-5",
        "Europe/Paris",
        task["id"],
        True,
    )
    assert len(task["upcoming"]) == 10
    assert alice_api.get(f"{PATH}?id={task['id']}").json()["tasks"][0]["id"] == task["id"]


@pytest.mark.parametrize(("given", "sent"), [("Asia/Kolkata", "Asia/Calcutta"), ("Europe/Kyiv", "Europe/Kiev")])
def test_todays_zone_names_work_and_read_back_as_given(
    alice_api: ContractClient, cast: Cast, trigger: Standin, given: str, sent: str
) -> None:
    task = made(alice_api, cast, timezone=given)
    assert (task["timezone"], task["sync_status"]) == (given, "in_sync")
    assert schedule_of(trigger, task).timezone == sent


@pytest.mark.parametrize("kind", ["hang", "reset", "status", "garbage", "late", "rate_limit"])
def test_with_trigger_down_a_task_is_made_and_pending(
    alice_api: ContractClient, cast: Cast, trigger: Standin, kind: Any
) -> None:
    trigger.faults.add(Fault(kind))
    task = made(alice_api, cast)
    assert (task["trigger_schedule_id"], task["sync_status"]) == (None, "pending")


def test_a_cron_that_trigger_refuses_although_we_took_it_leaves_no_row(
    alice_api: ContractClient, cast: Cast, trigger: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(trigger, "Invalid cron expression: too modern")
    response = send(alice_api, "POST", body(cast))
    assert response.status_code == 400
    assert (response.json()["missing_fields"], "too modern" in response.json()["message"]) == (["schedule"], True)
    assert Task.objects.count() == 0


def refuse(trigger: Standin, reason: str) -> None:
    """A Trigger.dev that refuses to write any schedule, for this reason."""
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=reason))


def test_any_other_refusal_leaves_the_task_pending_with_its_reason(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_TASK_IDENTIFIER = "not-deployed"
    task = made(alice_api, cast)
    assert task["sync_status"] == "pending"
    assert "not-deployed not found in project" in Task.objects.get().sync_error


# --- Changing --------------------------------------------------------------------------------------------------------


def test_what_is_not_sent_stays(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    before = made(alice_api, cast, timezone="Europe/Paris", model="gpt-5")
    after = changed(alice_api, before, title="Renamed")
    kept = before.keys() - {"title", "updated_at", "runs_as_of", "runs_status"}
    assert after["title"] == "Renamed"
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert schedule_of(trigger, after).timezone == "Europe/Paris"


def test_only_an_id_changes_nothing(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    before = made(alice_api, cast)
    asked = trigger.asked["all"]
    after = changed(alice_api, before)
    assert after == before
    assert trigger.asked["all"] == asked


def test_a_new_schedule_reaches_trigger_and_a_zone_alone_too(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = made(alice_api, cast)
    changed(alice_api, task, schedule="30 7 * * *")
    after = changed(alice_api, task, timezone="Asia/Kolkata")
    schedule = schedule_of(trigger, task)
    assert (schedule.cron, schedule.timezone, schedule.id) == (
        "30 7 * * *",
        "Asia/Calcutta",
        task["trigger_schedule_id"],
    )
    assert (after["schedule"], after["sync_status"]) == ("30 7 * * *", "in_sync")


@pytest.mark.parametrize("extra", [{}, {"schedule": "5 5 * * *"}])
def test_pause_and_resume_keep_id_history_and_zone(
    alice_api: ContractClient, cast: Cast, trigger: Standin, extra: dict[str, str]
) -> None:
    task = made(alice_api, cast, timezone="Asia/Kolkata")
    paused = changed(alice_api, task, enabled=False, **extra)
    assert (paused["enabled"], paused["upcoming"], schedule_of(trigger, task).active) == (False, [], False)
    resumed = changed(alice_api, task, enabled=True, schedule="6 6 * * *" if extra else task["schedule"])
    schedule = schedule_of(trigger, task)
    assert (schedule.id, schedule.active, schedule.timezone) == (task["trigger_schedule_id"], True, "Asia/Calcutta")
    assert (resumed["sync_status"], len(resumed["upcoming"])) == ("in_sync", 10)


def test_enabled_may_be_null_and_a_model_taken_back(alice_api: ContractClient, cast: Cast) -> None:
    task = made(alice_api, cast, model="gpt-5")
    after = changed(alice_api, task, enabled=None, model=None)
    assert (after["enabled"], after["model"], len(after["upcoming"])) == (None, None, 10)


def test_a_cron_that_trigger_refuses_brings_the_former_values_back(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    before = made(alice_api, cast)
    refuse(trigger, "Invalid cron expression: too modern")
    response = send(alice_api, "PATCH", {"id": before["id"], "schedule": "1 1 * * *", "title": "New"})
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["schedule"])
    after = alice_api.get(f"{PATH}?id={before['id']}").json()["tasks"][0]
    kept = before.keys() - {"runs_as_of", "runs_status"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert schedule_of(trigger, before).cron == before["schedule"]


def test_a_task_never_moves_to_another_account(alice_api: ContractClient, cast: Cast) -> None:
    task = made(alice_api, cast)
    response = send(alice_api, "PATCH", {"id": task["id"], "account_id": str(cast.bob.pk)})
    assert response.status_code == 404
    assert Task.objects.get().account == cast.alice


# --- Deleting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["body", "query", "both"])
def test_a_deleted_task_is_gone_here_and_at_trigger(
    alice_api: ContractClient, cast: Cast, trigger: Standin, way: str
) -> None:
    task = made(alice_api, cast)
    query = f"?id={task['id']}" if way != "body" else ""
    response = send(alice_api, "DELETE", {"id": task["id"]} if way != "query" else b"", query)
    assert (response.status_code, response.json()) == (200, {"status": "success"})
    assert trigger.state.schedule(task["id"]) is None
    assert alice_api.get(PATH).json()["tasks"] == []
    assert send(alice_api, "DELETE", {"id": task["id"]}).status_code == 404
    row = Task.objects.get()
    assert (row.title, row.prompt, row.account, row.sync_status) == ("", "", cast.alice, "in_sync")


def test_with_trigger_down_a_task_is_deleted_and_its_schedule_still_to_go(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = made(alice_api, cast)
    trigger.faults.add(Fault("reset", method="DELETE"))
    trigger.faults.add(Fault("hang"))
    assert send(alice_api, "DELETE", {"id": task["id"]}).status_code == 200
    assert alice_api.get(PATH).json()["tasks"] == []
    assert Task.objects.get().sync_status == "pending"


def test_ids_that_differ_are_a_400(alice_api: ContractClient, cast: Cast) -> None:
    one, other = made(alice_api, cast), made(alice_api, cast)
    response = send(alice_api, "DELETE", {"id": one["id"]}, f"?id={other['id']}")
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["id"])
    assert Task.objects.living().count() == 2


# --- Who may ---------------------------------------------------------------------------------------------------------

# For each caller: what it gets for writing as, or to a task of, Alice, Bob, Charlie and nobody.
OWNERS = ("alice", "bob", "charlie", "unknown")
UNKNOWN = "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11"
CREATE_FOR = {
    "alice": (200, 200, 403, 403),
    "bob": (200, 200, 403, 403),
    "charlie": (403, 403, 200, 403),
    "dora": (200, 200, 200, 403),
}
WRITE_TO = {
    "alice": (200, 200, 404, 404),
    "bob": (200, 200, 404, 404),
    "charlie": (404, 404, 200, 404),
    "dora": (200, 200, 200, 404),
}
WRITE_NAMING_ITS_ACCOUNT = {
    "alice": (200, 200, 403, 403),
    "bob": (200, 200, 403, 403),
    "charlie": (403, 403, 200, 403),
    "dora": (200, 200, 200, 404),
}


@pytest.fixture
def everybody_works_with_the_artist(cast: Cast) -> None:
    for name in ("charlie", "dora"):
        ArtistLink.objects.create(artist_account=cast.artist, account=cast.person(name))


def account_of(cast: Cast, name: str) -> str:
    return UNKNOWN if name == "unknown" else str(cast.person(name).pk)


@pytest.mark.usefixtures("everybody_works_with_the_artist")
@pytest.mark.parametrize("caller", CREATE_FOR)
def test_who_may_create_for_whom(cast: Cast, caller: str) -> None:
    api = with_key(make_key(cast.person(caller)))
    statuses = [send(api, "POST", body(cast, account_id=account_of(cast, owner))).status_code for owner in OWNERS]
    assert tuple(statuses) == CREATE_FOR[caller]
    assert Task.objects.count() == statuses.count(200)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("naming", [False, True])
@pytest.mark.parametrize("caller", WRITE_TO)
def test_who_may_change_and_delete_whose(cast: Cast, caller: str, naming: bool, method: str) -> None:
    api, statuses = with_key(make_key(cast.person(caller))), []
    for owner in OWNERS:
        owned = owner != "unknown"
        task_id = str(make_task(cast.person(owner), cast.artist).pk) if owned else UNKNOWN
        names = {"account_id": account_of(cast, owner)} if naming else {}
        changes = {"title": "x"} if method == "PATCH" else {}
        statuses.append(send(api, method, {"id": task_id, **names, **changes}).status_code)
    assert tuple(statuses) == (WRITE_NAMING_ITS_ACCOUNT if naming else WRITE_TO)[caller]


@pytest.mark.parametrize("caller", ["nobody", "both", "a bad key", "an expired key", "a revoked key"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_without_one_valid_credential_nothing_is_written(
    cast: Cast, trigger: Standin, method: str, caller: str
) -> None:
    key, past = make_key(cast.alice), timezone.now() - timedelta(seconds=1)
    api = {
        "nobody": ContractClient(),
        "both": with_key(key),
        "a bad key": with_key(key + "x"),
        "an expired key": with_key(make_key(cast.alice, expires_at=past)),
        "a revoked key": with_key(make_key(cast.alice, revoked_at=past)),
    }[caller]
    if caller == "both":
        api.credentials(HTTP_X_API_KEY=key, HTTP_AUTHORIZATION=f"Bearer {key}")
    task = make_task(cast.alice, cast.artist)
    assert send(api, method, {**body(cast), "id": str(task.pk)}).status_code == 401
    assert (Task.objects.get().generation, trigger.asked["all"]) == (1, 0)


def test_a_foreign_and_an_unknown_task_are_the_same_404(alice_api: ContractClient, cast: Cast) -> None:
    foreign = make_task(cast.charlie, cast.artist)
    answers = {
        send(alice_api, "PATCH", {"id": task_id, "title": "x"}).content for task_id in (str(foreign.pk), UNKNOWN)
    }
    assert answers == {b'{"status":"error","error":"Task not found"}'}


@pytest.mark.parametrize("artist", ["foreign", "unknown"])
def test_an_artist_out_of_the_accounts_reach_is_a_403(
    alice_api: ContractClient, dora_api: ContractClient, cast: Cast, trigger: Standin, artist: str
) -> None:
    artist_id = UNKNOWN if artist == "unknown" else str(cast.charlie.pk)
    task = make_task(cast.alice, cast.artist)
    for api in (alice_api, dora_api):
        as_alice = body(cast, artist_account_id=artist_id, account_id=str(cast.alice.pk))
        assert send(api, "POST", as_alice).status_code == 403
        assert send(api, "PATCH", {"id": str(task.pk), "artist_account_id": artist_id}).status_code == 403
    assert (Task.objects.count(), trigger.asked["all"]) == (1, 0)


def test_an_artist_that_does_not_change_is_not_looked_at(alice_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.charlie)
    same = {"id": str(task.pk), "artist_account_id": str(cast.charlie.pk), "title": "x"}
    assert send(alice_api, "PATCH", same).status_code == 200


# --- Bad input -------------------------------------------------------------------------------------------------------

WRONG_TEXTS: list[Any] = ["", "  \n\t", "a\x00b", "\ud800", 7, None, {}, []]
WRONG_FIELDS: list[tuple[str, Any]] = [
    *(("schedule", value) for value in ("0 0 9 * * *", "0  9 * * *", "@daily", "0 9 * * L", "0 0 30 2 *", "R * * * *")),
    *(("schedule", value) for value in ("1," * 2500 + "1 * * * *", "\u0660 9 * * *", "", " ", 5, None, ["0 9 * * *"])),
    *(("timezone", value) for value in ("", "EST5EDT4", "europe/london", "../etc/passwd", 1, None, "x" * 5000)),
    *((name, value) for name in ("title", "prompt") for value in WRONG_TEXTS),
    ("title", "x" * 501),
    ("prompt", "x" * 50_001),
    ("model", ""),
    ("model", 1),
    *(("artist_account_id", value) for value in ("", "x", 1, None, "{" + UNKNOWN + "}", "urn:uuid:" + UNKNOWN)),
    *(("account_id", value) for value in ("", "x", 1, None)),
    *((name, "x") for name in ("nonsense", "trigger_schedule_id", "created_at", "sync_status", "owner_email", "")),
]


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS, ids=lambda value: str(value)[:24].encode("ascii", "replace"))
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_wrong_field_is_a_400_that_names_it(
    alice_api: ContractClient, cast: Cast, trigger: Standin, method: str, name: str, value: Any
) -> None:
    task = make_task(cast.alice, cast.artist)
    sent = {**body(cast), name: value} if method == "POST" else {"id": str(task.pk), name: value}
    response = send(alice_api, method, sent)
    assert (response.status_code, response.json()["missing_fields"]) == (400, [name])
    assert len(response.content) < 700
    assert (Task.objects.count(), Task.objects.get().generation, trigger.asked["all"]) == (1, 1, 0)


@pytest.mark.parametrize("name", ["title", "prompt", "schedule", "artist_account_id"])
def test_a_missing_field_is_a_400_that_names_it(alice_api: ContractClient, cast: Cast, name: str) -> None:
    response = send(alice_api, "POST", body(cast, **{name: ...}))
    assert (response.status_code, response.json()["missing_fields"]) == (400, [name])


NO_FLAGS: list[Any] = [0, 1, "true", "", [], {}]


@pytest.mark.parametrize("value", NO_FLAGS)
def test_enabled_is_true_false_or_null(alice_api: ContractClient, cast: Cast, value: Any) -> None:
    task = make_task(cast.alice, cast.artist)
    response = send(alice_api, "PATCH", {"id": str(task.pk), "enabled": value})
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["enabled"])


WRONG_BODIES = [
    b"",
    b"[]",
    b'"x"',
    b"null",
    b"1",
    b"{",
    b"[" * 1900,
    b'{"a":' * 1900,
    b'{"title": "a", "title": "b"}',
    b'{"title": NaN}',
    b'{"title": Infinity}',
    b'{"title": "\xff"}',
    b"\xef\xbb\xbf{}",
    b"title=x",
]


@pytest.mark.parametrize("raw", WRONG_BODIES, ids=lambda raw: raw[:16].decode(errors="replace"))
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_body_that_is_wrong_as_a_whole_is_a_400(
    alice_api: ContractClient, trigger: Standin, method: str, raw: bytes
) -> None:
    response = send(alice_api, method, raw)
    assert response.status_code == 400
    first_needed = ["title"] if method == "POST" else ["id"]
    assert response.json()["missing_fields"] == ([] if raw else first_needed)
    assert (Task.objects.count(), trigger.asked["all"]) == (0, 0)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_write_takes_no_parameters(alice_api: ContractClient, cast: Cast, method: str) -> None:
    assert send(alice_api, method, body(cast), "?dry_run=1").status_code == 400


@pytest.mark.parametrize("text", ["🎧 new release", "مرحبا", "  spaces kept  ", "新曲\nsecond line", "a\u0301"])
def test_every_script_is_kept_unchanged(alice_api: ContractClient, cast: Cast, text: str) -> None:
    task = made(alice_api, cast, title=text, prompt=text)
    assert (task["title"], task["prompt"]) == (text, text)


# --- In each other's way ---------------------------------------------------------------------------------------------


def test_a_change_of_a_task_that_is_deleted_meanwhile_writes_nothing_back(
    alice_api: ContractClient, cast: Cast
) -> None:
    task = make_task(cast.alice, cast.artist)
    writes.delete_task(task, at=timezone.now())
    with pytest.raises(writes.TaskGone):
        writes.update_task(task, {"title": "secret", "prompt": "secret"}, at=timezone.now())
    assert Task.objects.get().title == ""


def meanwhile(trigger: Standin, **changes: Any) -> None:
    """Somebody else writes while Trigger.dev makes up its mind about a POST."""

    def write(request: Request) -> None:
        if request.method == "POST":
            trigger.before = lambda request: None
            Task.objects.update(**changes, generation=F("generation") + 1)

    trigger.before = write


def test_a_refused_task_that_somebody_has_changed_meanwhile_stays(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    refuse(trigger, "Invalid cron expression: too modern")
    meanwhile(trigger, title="newer")
    task = made(alice_api, cast)
    assert (task["title"], task["sync_status"]) == ("newer", "pending")


def test_a_refused_change_is_not_undone_over_a_newer_one(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = made(alice_api, cast)
    refuse(trigger, "Invalid cron expression: too modern")
    meanwhile(trigger, title="newer", schedule="3 3 * * *")
    after = changed(alice_api, task, schedule="1 1 * * *")
    assert (after["title"], after["schedule"], after["sync_status"]) == ("newer", "3 3 * * *", "pending")


def test_a_task_whose_schedule_is_refused_can_still_be_paused_and_renamed(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = made(alice_api, cast)
    trigger.faults.add(Fault("status", times=1, method="POST"))
    changed(alice_api, task, schedule="1 1 * * *")
    refuse(trigger, "Invalid cron expression: too modern")
    renamed = changed(alice_api, task, title="Renamed", enabled=False)
    assert (renamed["title"], renamed["enabled"], renamed["sync_status"]) == ("Renamed", False, "refused")
    assert schedule_of(trigger, task).active is False


def test_acting_for_an_admin_lends_none_of_its_reach(cast: Cast, trigger: Standin) -> None:
    club = Organization.objects.create(name="Club")
    for name in ("charlie", "dora"):
        Membership.objects.create(account=cast.person(name), organization=club)
    charlie, as_dora = with_key(make_key(cast.charlie)), {"account_id": str(cast.dora.pk)}
    for artist_id in (str(cast.alice.pk), str(cast.artist.pk), UNKNOWN):
        assert send(charlie, "POST", body(cast, artist_account_id=artist_id, **as_dora)).status_code == 403
    dora = with_key(make_key(cast.dora))
    assert send(dora, "POST", body(cast, artist_account_id=str(cast.alice.pk))).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_body_of_more_than_a_megabyte_is_a_400(alice_api: ContractClient, method: str) -> None:
    response = send(alice_api, method, b'{"title": "' + b"x" * 1024 * 1024 + b'"}')
    assert response.status_code == 400


def test_a_body_without_its_length_gets_one() -> None:
    environ = with_length({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": BytesIO(b"{}")})
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"].read()) == ("2", b"{}")
    usual = {"CONTENT_LENGTH": "2", "wsgi.input": BytesIO(b"{}")}
    assert with_length(usual) is usual
