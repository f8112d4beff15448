"""POST, PATCH and DELETE /api/tasks: changes to the database and to Trigger.dev, access, and bad input."""

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
from tests.cast import TESTER, Cast, make_key, make_task
from tests.client import ContractClient, with_key

PATH = "/api/tasks"
SCHEDULES = "/api/v1/schedules*"


@pytest.fixture(autouse=True)
def link_artist_to_label(cast: Cast) -> None:
    """Alice and Bob, through their organization, may create tasks for the artist."""
    ArtistLink.objects.create(artist_account=cast.artist, organization=Organization.objects.get(name="Label"))


def task_body(cast: Cast, **changes: Any) -> dict[str, Any]:
    fields = {
        "title": "Report",
        "prompt": "Write it.",
        "schedule": "0 9 * * 1-5",
        "artist_account_id": str(cast.artist.pk),
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not ...}


def send_request(api: ContractClient, method: str, data: Any, query: str = "") -> Any:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return api.generic(method, f"{PATH}{query}", raw, content_type="application/json")  # type: ignore[arg-type]


def create_task(api: ContractClient, cast: Cast, **changes: Any) -> Any:
    response = send_request(api, "POST", task_body(cast, **changes))
    assert response.status_code == 200, response.content
    return response.json()["tasks"][0]


def patch_task(api: ContractClient, task: Any, **changes: Any) -> Any:
    response = send_request(api, "PATCH", {"id": task["id"], **changes})
    assert response.status_code == 200, response.content
    return response.json()["tasks"][0]


def schedule_of(trigger: Standin, task: Any) -> StandinSchedule:
    schedule = trigger.state.schedule(task["id"])
    assert schedule is not None
    return schedule


# --- Creating --------------------------------------------------------------------------------------------------------


def test_a_write_warns_of_a_time_zone_without_summer_time(alice_api: ContractClient, cast: Cast) -> None:
    body = send_request(alice_api, "POST", task_body(cast, timezone="EST")).json()
    assert [text[:40] for text in body["warnings"]] == ["The time zone EST is UTC-05:00 all year,"]
    task = body["tasks"][0]
    changed = send_request(alice_api, "PATCH", {"id": task["id"], "title": "new"}).json()
    assert changed["warnings"] == body["warnings"]
    assert "warnings" not in send_request(alice_api, "PATCH", {"id": task["id"], "timezone": "America/New_York"}).json()


def test_a_long_name_of_an_unknown_field_is_cut_in_the_answer(alice_api: ContractClient, cast: Cast) -> None:
    response = send_request(alice_api, "POST", task_body(cast, **{"x" * 500_000: 1}))
    assert (response.status_code, len(response.content) < 600) == (400, True)
    assert response.json()["missing_fields"] == ["x" * 60 + "…"]


def test_creating_a_task_creates_its_schedule(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    task = create_task(alice_api, cast, timezone="Europe/Paris", model="gpt-5")
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
def test_current_time_zone_names_are_stored_as_given_and_sent_as_legacy_names(
    alice_api: ContractClient, cast: Cast, trigger: Standin, given: str, sent: str
) -> None:
    task = create_task(alice_api, cast, timezone=given)
    assert (task["timezone"], task["sync_status"]) == (given, "in_sync")
    assert schedule_of(trigger, task).timezone == sent


@pytest.mark.parametrize("kind", ["hang", "reset", "status", "garbage", "late", "rate_limit"])
def test_with_trigger_down_a_task_is_created_as_pending(
    alice_api: ContractClient, cast: Cast, trigger: Standin, kind: Any
) -> None:
    trigger.faults.add(Fault(kind))
    task = create_task(alice_api, cast)
    assert (task["trigger_schedule_id"], task["sync_status"]) == (None, "pending")


def test_a_cron_expression_that_only_trigger_refuses_is_a_400_and_creates_no_task(
    alice_api: ContractClient, cast: Cast, trigger: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_schedules(trigger, "Invalid cron expression: too modern")
    response = send_request(alice_api, "POST", task_body(cast))
    assert response.status_code == 400
    assert (response.json()["missing_fields"], "too modern" in response.json()["message"]) == (["schedule"], True)
    assert Task.objects.count() == 0


def refuse_schedules(trigger: Standin, reason: str) -> None:
    """Makes Trigger.dev refuse to write any schedule, for this reason."""
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=reason))


def test_an_error_that_is_not_about_the_schedule_leaves_the_task_pending_with_the_reason(
    alice_api: ContractClient, cast: Cast, trigger: Standin, settings: Settings
) -> None:
    settings.TRIGGER_TASK_IDENTIFIER = "not-deployed"
    task = create_task(alice_api, cast)
    assert task["sync_status"] == "pending"
    assert "not-deployed not found in project" in Task.objects.get().sync_error


# --- Changing --------------------------------------------------------------------------------------------------------


def test_patch_keeps_the_fields_that_are_not_sent(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    before = create_task(alice_api, cast, timezone="Europe/Paris", model="gpt-5")
    after = patch_task(alice_api, before, title="Renamed")
    unchanged = before.keys() - {"title", "updated_at", "runs_as_of", "runs_status"}
    assert after["title"] == "Renamed"
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert schedule_of(trigger, after).timezone == "Europe/Paris"


def test_a_patch_with_only_an_id_changes_nothing(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    before = create_task(alice_api, cast)
    calls_before = trigger.asked["all"]
    after = patch_task(alice_api, before)
    assert after == before
    assert trigger.asked["all"] == calls_before


@pytest.mark.parametrize(
    ("changes", "calls"),
    [
        ({"title": "Renamed"}, 0),
        ({"prompt": "Another"}, 0),
        ({"model": None}, 0),
        ({"schedule": "30 7 * * *"}, 2),
        ({"title": "Renamed", "timezone": "Asia/Kolkata"}, 2),
        ({"enabled": False}, 2),
    ],
)
def test_what_a_write_costs_in_calls(
    alice_api: ContractClient, cast: Cast, trigger: Standin, changes: dict[str, Any], calls: int
) -> None:
    task = create_task(alice_api, cast)
    assert trigger.asked == {"all": 1, "POST /api/v1/schedules": 1}
    assert patch_task(alice_api, task, **changes)["sync_status"] == "in_sync"
    assert trigger.asked["all"] == 1 + calls


@pytest.mark.parametrize("enabled", [True, False])
def test_a_delete_costs_one_call(alice_api: ContractClient, cast: Cast, trigger: Standin, enabled: bool) -> None:
    task = create_task(alice_api, cast)
    if not enabled:
        patch_task(alice_api, task, enabled=False)
    trigger.asked.clear()
    assert alice_api.delete("/api/tasks", {"id": task["id"]}, format="json").status_code == 200
    assert trigger.asked == {"all": 1, "DELETE /api/v1/schedules/{id}": 1}
    assert (trigger.state.count_schedules(), Task.objects.get().sync_status) == (0, "in_sync")


def test_a_schedule_that_was_lost_and_made_again_is_polled_deeply(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = create_task(alice_api, cast)
    trigger.state.remove_schedule(task["trigger_schedule_id"])
    after = patch_task(alice_api, task, enabled=True)
    assert after["trigger_schedule_id"] not in (None, task["trigger_schedule_id"])
    row = Task.objects.get()
    assert row.next_poll_at is not None
    assert (row.deep_polled_at, row.next_poll_at <= timezone.now()) == (None, True)


def test_a_new_title_of_a_pending_task_is_another_attempt_to_settle_it(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    trigger.faults.add(Fault("status", times=1))
    task = create_task(alice_api, cast)
    assert task["sync_status"] == "pending"
    Task.objects.update(unsettled_until=None, lease_until=None)
    assert patch_task(alice_api, task, title="Renamed")["sync_status"] == "in_sync"
    assert schedule_of(trigger, task).active


def test_a_new_schedule_and_a_new_time_zone_reach_trigger(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = create_task(alice_api, cast)
    patch_task(alice_api, task, schedule="30 7 * * *")
    after = patch_task(alice_api, task, timezone="Asia/Kolkata")
    schedule = schedule_of(trigger, task)
    assert (schedule.cron, schedule.timezone, schedule.id) == (
        "30 7 * * *",
        "Asia/Calcutta",
        task["trigger_schedule_id"],
    )
    assert (after["schedule"], after["sync_status"]) == ("30 7 * * *", "in_sync")


@pytest.mark.parametrize("extra", [{}, {"schedule": "5 5 * * *"}])
def test_pause_and_resume_keep_the_schedule_id_and_the_time_zone(
    alice_api: ContractClient, cast: Cast, trigger: Standin, extra: dict[str, str]
) -> None:
    task = create_task(alice_api, cast, timezone="Asia/Kolkata")
    paused = patch_task(alice_api, task, enabled=False, **extra)
    assert (paused["enabled"], paused["upcoming"], schedule_of(trigger, task).active) == (False, [], False)
    resumed = patch_task(alice_api, task, enabled=True, schedule="6 6 * * *" if extra else task["schedule"])
    schedule = schedule_of(trigger, task)
    assert (schedule.id, schedule.active, schedule.timezone) == (task["trigger_schedule_id"], True, "Asia/Calcutta")
    assert (resumed["sync_status"], len(resumed["upcoming"])) == ("in_sync", 10)


def test_enabled_may_be_null_and_null_clears_the_model(alice_api: ContractClient, cast: Cast) -> None:
    task = create_task(alice_api, cast, model="gpt-5")
    after = patch_task(alice_api, task, enabled=None, model=None)
    assert (after["enabled"], after["model"], len(after["upcoming"])) == (None, None, 10)


def test_a_patch_with_a_cron_expression_that_trigger_refuses_is_rolled_back(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    before = create_task(alice_api, cast)
    refuse_schedules(trigger, "Invalid cron expression: too modern")
    response = send_request(alice_api, "PATCH", {"id": before["id"], "schedule": "1 1 * * *", "title": "New"})
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["schedule"])
    after = alice_api.get(f"{PATH}?id={before['id']}").json()["tasks"][0]
    unchanged = before.keys() - {"runs_as_of", "runs_status"}
    assert {name: after[name] for name in unchanged} == {name: before[name] for name in unchanged}
    assert schedule_of(trigger, before).cron == before["schedule"]


def test_a_task_cannot_move_to_another_account(alice_api: ContractClient, cast: Cast) -> None:
    task = create_task(alice_api, cast)
    response = send_request(alice_api, "PATCH", {"id": task["id"], "account_id": str(cast.bob.pk)})
    assert response.status_code == 404
    assert Task.objects.get().account == cast.alice


# --- Deleting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_in", ["body", "query", "both"])
def test_deleting_a_task_also_deletes_its_schedule_and_clears_its_texts(
    alice_api: ContractClient, cast: Cast, trigger: Standin, id_in: str
) -> None:
    task = create_task(alice_api, cast)
    query = f"?id={task['id']}" if id_in != "body" else ""
    response = send_request(alice_api, "DELETE", {"id": task["id"]} if id_in != "query" else b"", query)
    assert (response.status_code, response.json()) == (200, {"status": "success"})
    assert trigger.state.schedule(task["id"]) is None
    assert alice_api.get(PATH).json()["tasks"] == []
    assert send_request(alice_api, "DELETE", {"id": task["id"]}).status_code == 404
    row = Task.objects.get()
    assert (row.title, row.prompt, row.account, row.sync_status) == ("", "", cast.alice, "in_sync")


def test_with_trigger_down_a_deleted_task_is_pending_until_its_schedule_is_deleted(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = create_task(alice_api, cast)
    trigger.faults.add(Fault("reset", method="DELETE"))
    trigger.faults.add(Fault("hang"))
    assert send_request(alice_api, "DELETE", {"id": task["id"]}).status_code == 200
    assert alice_api.get(PATH).json()["tasks"] == []
    assert Task.objects.get().sync_status == "pending"


def test_different_ids_in_body_and_query_are_a_400(alice_api: ContractClient, cast: Cast) -> None:
    first, second = create_task(alice_api, cast), create_task(alice_api, cast)
    response = send_request(alice_api, "DELETE", {"id": first["id"]}, f"?id={second['id']}")
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["id"])
    assert Task.objects.living().count() == 2


# --- Access ----------------------------------------------------------------------------------------------------------

# For each caller: the statuses of writes for the accounts of Alice, Bob, Charlie and an unknown account.
OWNERS = ("alice", "bob", "charlie", "unknown")
UNKNOWN = "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11"
CREATE_FOR = {
    "alice": (200, 200, 403, 403),
    "bob": (200, 200, 403, 403),
    "charlie": (403, 403, 200, 403),
    "dora": (200, 200, 200, 403),
}
WRITE_BY_ID = {
    "alice": (200, 200, 404, 404),
    "bob": (200, 200, 404, 404),
    "charlie": (404, 404, 200, 404),
    "dora": (200, 200, 200, 404),
}
WRITE_BY_ID_AND_ITS_ACCOUNT = {
    "alice": (200, 200, 403, 403),
    "bob": (200, 200, 403, 403),
    "charlie": (403, 403, 200, 403),
    "dora": (200, 200, 200, 404),
}


@pytest.fixture
def artist_linked_to_everybody(cast: Cast) -> None:
    for name in ("charlie", "dora"):
        ArtistLink.objects.create(artist_account=cast.artist, account=cast.person(name))


def account_id_of(cast: Cast, name: str) -> str:
    return UNKNOWN if name == "unknown" else str(cast.person(name).pk)


@pytest.mark.usefixtures("artist_linked_to_everybody")
@pytest.mark.parametrize("caller", CREATE_FOR)
def test_access_to_create_tasks_for_each_account(cast: Cast, caller: str) -> None:
    api = with_key(make_key(cast.person(caller)))
    statuses = [
        send_request(api, "POST", task_body(cast, account_id=account_id_of(cast, owner))).status_code
        for owner in OWNERS
    ]
    assert tuple(statuses) == CREATE_FOR[caller]
    assert Task.objects.count() == statuses.count(200)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("with_account_id", [False, True], ids=["id_only", "with_account_id"])
@pytest.mark.parametrize("caller", WRITE_BY_ID)
def test_access_to_change_and_delete_tasks_of_each_account(
    cast: Cast, caller: str, with_account_id: bool, method: str
) -> None:
    api, statuses = with_key(make_key(cast.person(caller))), []
    for owner in OWNERS:
        is_known = owner != "unknown"
        task_id = str(make_task(cast.person(owner), cast.artist).pk) if is_known else UNKNOWN
        named_account = {"account_id": account_id_of(cast, owner)} if with_account_id else {}
        changes = {"title": "x"} if method == "PATCH" else {}
        statuses.append(send_request(api, method, {"id": task_id, **named_account, **changes}).status_code)
    assert tuple(statuses) == (WRITE_BY_ID_AND_ITS_ACCOUNT if with_account_id else WRITE_BY_ID)[caller]


@pytest.mark.parametrize("caller", ["no credential", "two credentials", "invalid key", "expired key", "revoked key"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_write_without_exactly_one_valid_credential_is_a_401(
    cast: Cast, trigger: Standin, method: str, caller: str
) -> None:
    key, past = make_key(cast.alice), timezone.now() - timedelta(seconds=1)
    api = {
        "no credential": ContractClient(),
        "two credentials": with_key(key),
        "invalid key": with_key(key + "x"),
        "expired key": with_key(make_key(cast.alice, expires_at=past)),
        "revoked key": with_key(make_key(cast.alice, revoked_at=past)),
    }[caller]
    if caller == "two credentials":
        api.credentials(HTTP_X_API_KEY=key, HTTP_AUTHORIZATION=f"Bearer {key}")
    task = make_task(cast.alice, cast.artist)
    assert send_request(api, method, {**task_body(cast), "id": str(task.pk)}).status_code == 401
    assert (Task.objects.get().generation, trigger.asked["all"]) == (1, 0)


def test_the_404_is_the_same_for_another_accounts_task_and_for_an_unknown_task(
    alice_api: ContractClient, cast: Cast
) -> None:
    charlies = make_task(cast.charlie, cast.artist)
    bodies = {
        send_request(alice_api, "PATCH", {"id": task_id, "title": "x"}).content
        for task_id in (str(charlies.pk), UNKNOWN)
    }
    assert bodies == {b'{"status":"error","error":"Task not found"}'}


@pytest.mark.parametrize("artist", ["unlinked", "unknown"])
def test_an_artist_that_is_not_linked_to_the_account_is_a_403(
    alice_api: ContractClient, dora_api: ContractClient, cast: Cast, trigger: Standin, artist: str
) -> None:
    artist_id = UNKNOWN if artist == "unknown" else str(cast.charlie.pk)
    task = make_task(cast.alice, cast.artist)
    for api in (alice_api, dora_api):
        as_alice = task_body(cast, artist_account_id=artist_id, account_id=str(cast.alice.pk))
        assert send_request(api, "POST", as_alice).status_code == 403
        assert send_request(api, "PATCH", {"id": str(task.pk), "artist_account_id": artist_id}).status_code == 403
    assert (Task.objects.count(), trigger.asked["all"]) == (1, 0)


def test_the_access_to_an_unchanged_artist_is_not_checked(alice_api: ContractClient, cast: Cast) -> None:
    task = make_task(cast.alice, cast.charlie)
    same = {"id": str(task.pk), "artist_account_id": str(cast.charlie.pk), "title": "x"}
    assert send_request(alice_api, "PATCH", same).status_code == 200


# --- Bad input -------------------------------------------------------------------------------------------------------

INVALID_TEXTS: list[Any] = ["", "  \n\t", "a\x00b", "\ud800", 7, None, {}, []]
INVALID_FIELDS: list[tuple[str, Any]] = [
    *(("schedule", value) for value in ("0 0 9 * * *", "0  9 * * *", "@daily", "0 9 * * L", "0 0 30 2 *", "R * * * *")),
    *(("schedule", value) for value in ("1," * 2500 + "1 * * * *", "\u0660 9 * * *", "", " ", 5, None, ["0 9 * * *"])),
    *(("timezone", value) for value in ("", "EST5EDT4", "europe/london", "../etc/passwd", 1, None, "x" * 5000)),
    *((name, value) for name in ("title", "prompt") for value in INVALID_TEXTS),
    ("title", "x" * 501),
    ("prompt", "x" * 50_001),
    ("model", ""),
    ("model", 1),
    *(("artist_account_id", value) for value in ("", "x", 1, None, "{" + UNKNOWN + "}", "urn:uuid:" + UNKNOWN)),
    *(("account_id", value) for value in ("", "x", 1, None)),
    *((name, "x") for name in ("nonsense", "trigger_schedule_id", "created_at", "sync_status", "owner_email", "")),
]


@pytest.mark.parametrize(
    ("name", "value"), INVALID_FIELDS, ids=lambda value: str(value)[:24].encode("ascii", "replace")
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_an_invalid_field_is_a_400_that_names_it(
    alice_api: ContractClient, cast: Cast, trigger: Standin, method: str, name: str, value: Any
) -> None:
    task = make_task(cast.alice, cast.artist)
    fields = {**task_body(cast), name: value} if method == "POST" else {"id": str(task.pk), name: value}
    response = send_request(alice_api, method, fields)
    assert (response.status_code, response.json()["missing_fields"]) == (400, [name])
    assert len(response.content) < 700
    assert (Task.objects.count(), Task.objects.get().generation, trigger.asked["all"]) == (1, 1, 0)


@pytest.mark.parametrize("name", ["title", "prompt", "schedule", "artist_account_id"])
def test_a_missing_field_is_a_400_that_names_it(alice_api: ContractClient, cast: Cast, name: str) -> None:
    response = send_request(alice_api, "POST", task_body(cast, **{name: ...}))
    assert (response.status_code, response.json()["missing_fields"]) == (400, [name])


INVALID_FLAGS: list[Any] = [0, 1, "true", "", [], {}]


@pytest.mark.parametrize("value", INVALID_FLAGS)
def test_enabled_accepts_only_true_false_and_null(alice_api: ContractClient, cast: Cast, value: Any) -> None:
    task = make_task(cast.alice, cast.artist)
    response = send_request(alice_api, "PATCH", {"id": str(task.pk), "enabled": value})
    assert (response.status_code, response.json()["missing_fields"]) == (400, ["enabled"])


INVALID_BODIES = [
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
    b"\xff{}",
    b"title=x",
    b'{"title": ' + b"9" * 5000 + b"}",
]


BODIES_OF_OTHERS = [
    (b"title=x&prompt=y", {"content_type": "application/x-www-form-urlencoded"}, "is a form (application/x-www-form"),
    (b"--x--", {"content_type": "multipart/form-data; boundary=x"}, "is a form (multipart/form-data). Send JSON"),
    (b"\x1f\x8b\x08\x00", {}, "is compressed (gzip). Send it as it is."),
    (b"\x28\xb5\x2f\xfd", {"HTTP_CONTENT_ENCODING": "zstd"}, "is compressed (zstd)"),
    (b'{"title": ' + b"9" * 5000 + b"}", {}, "a number has 5000 digits, and at most 1000 are read"),
]


@pytest.mark.parametrize(("raw", "headers", "words"), BODIES_OF_OTHERS, ids=[case[2][:30] for case in BODIES_OF_OTHERS])
def test_a_body_that_is_no_json_is_told_what_it_is(
    alice_api: ContractClient, raw: bytes, headers: dict[str, str], words: str
) -> None:
    response = alice_api.generic("POST", "/api/tasks", raw, **{"content_type": "application/json", **headers})  # type: ignore[arg-type]
    assert response.status_code == 400
    assert words in response.json()["message"]
    assert "sys." not in response.json()["message"]


def test_a_byte_order_mark_before_the_body_does_no_harm(alice_api: ContractClient, cast: Cast) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(task_body(cast)).encode()
    assert send_request(alice_api, "POST", body).status_code == 200


def test_all_that_is_wrong_with_a_body_is_said_at_once(alice_api: ContractClient, trigger: Standin) -> None:
    response = send_request(alice_api, "POST", {"colour": "red", "title": 5, "schedule": "0 9 * *"})
    body = response.json()
    assert (response.status_code, body["missing_fields"], trigger.asked["all"]) == (400, ["colour"], 0)
    for words in ("'colour' is not", "title must be a string.", "prompt is required.", "and this one has 4:"):
        assert words in body["message"]


INVISIBLE = ["", " \t", "\u200b\u200b", "\u2060 \ufeff", "\u3164", "\u2800", "\x07", "\u202e"]


@pytest.mark.parametrize("field", ["title", "prompt"])
@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
def test_a_text_of_which_nothing_can_be_seen_is_refused(
    alice_api: ContractClient, cast: Cast, field: str, text: str
) -> None:
    response = send_request(alice_api, "POST", {**task_body(cast), field: text})
    assert (response.status_code, response.json()["missing_fields"]) == (400, [field])


def test_control_characters_are_refused_in_a_title_and_do_no_harm_in_a_prompt(
    alice_api: ContractClient, cast: Cast
) -> None:
    assert send_request(alice_api, "POST", {**task_body(cast), "title": "a\x1b[0mb"}).status_code == 400
    harmless = {"title": "Zwei\nZeilen 👩\u200d🎤", "prompt": "Page 1\x0cPage 2"}
    response = send_request(alice_api, "POST", {**task_body(cast), **harmless})
    assert {name: response.json()["tasks"][0][name] for name in harmless} == harmless


def test_a_task_can_be_created_paused(alice_api: ContractClient, cast: Cast, trigger: Standin) -> None:
    response = send_request(alice_api, "POST", {**task_body(cast), "enabled": False})
    (task,) = response.json()["tasks"]
    assert (task["enabled"], task["upcoming"], task["sync_status"]) == (False, [], "in_sync")
    assert not [schedule for schedule in trigger.state.schedules() if schedule.active]
    send_request(alice_api, "PATCH", {"id": task["id"], "enabled": True})
    assert [schedule.active for schedule in trigger.state.schedules()] == [True]


@pytest.mark.parametrize(("path", "place"), [("nonsense", "tasks?id"), ("runs/run_x", "tasks/runs?runId")])
def test_an_id_in_the_path_is_told_where_it_belongs(alice_api: ContractClient, path: str, place: str) -> None:
    response = alice_api.get(f"/api/tasks/{path}")
    assert response.status_code == 404
    assert response.json()["message"].endswith(f"For one of them: /api/{place}=...")


def test_another_method_is_told_which_ones_there_are(alice_api: ContractClient, cast: Cast) -> None:
    response = send_request(alice_api, "PUT", task_body(cast))
    assert response.status_code == 405
    assert "Allowed methods: GET, POST, PATCH, DELETE" in response.json()["message"]


@pytest.mark.parametrize("raw", INVALID_BODIES, ids=lambda raw: raw[:16].decode(errors="replace"))
@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_malformed_body_is_a_400(alice_api: ContractClient, trigger: Standin, method: str, raw: bytes) -> None:
    response = send_request(alice_api, method, raw)
    assert response.status_code == 400
    first_required_field = ["title"] if method == "POST" else ["id"]
    assert response.json()["missing_fields"] == ([] if raw else first_required_field)
    assert (Task.objects.count(), trigger.asked["all"]) == (0, 0)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_write_with_query_parameters_is_a_400(alice_api: ContractClient, cast: Cast, method: str) -> None:
    assert send_request(alice_api, method, task_body(cast), "?dry_run=1").status_code == 400


@pytest.mark.parametrize("text", ["🎧 new release", "مرحبا", "  spaces kept  ", "新曲\nsecond line", "a\u0301"])
def test_unicode_texts_are_stored_unchanged(alice_api: ContractClient, cast: Cast, text: str) -> None:
    task = create_task(alice_api, cast, title=text, prompt=text)
    assert (task["title"], task["prompt"]) == (text, text)


# --- Concurrent writes -----------------------------------------------------------------------------------------------


def test_an_update_of_a_task_that_was_deleted_concurrently_writes_nothing(
    alice_api: ContractClient, cast: Cast
) -> None:
    task = make_task(cast.alice, cast.artist)
    writes.delete_task(task, actor=TESTER, at=timezone.now())
    with pytest.raises(writes.TaskGone):
        writes.update_task(task, {"title": "secret", "prompt": "secret"}, actor=TESTER, at=timezone.now())
    assert Task.objects.get().title == ""


def write_during_next_post(trigger: Standin, **changes: Any) -> None:
    """Another writer changes the task while Trigger.dev handles the next POST."""

    def write(request: Request) -> None:
        if request.method == "POST":
            trigger.before = lambda request: None
            Task.objects.update(**changes, generation=F("generation") + 1)

    trigger.before = write


def test_a_refused_task_that_was_changed_concurrently_is_kept(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    refuse_schedules(trigger, "Invalid cron expression: too modern")
    write_during_next_post(trigger, title="newer")
    task = create_task(alice_api, cast)
    assert (task["title"], task["sync_status"]) == ("newer", "pending")


def test_the_rollback_of_a_refused_patch_does_not_overwrite_a_newer_write(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = create_task(alice_api, cast)
    refuse_schedules(trigger, "Invalid cron expression: too modern")
    write_during_next_post(trigger, title="newer", schedule="3 3 * * *")
    after = patch_task(alice_api, task, schedule="1 1 * * *")
    assert (after["title"], after["schedule"], after["sync_status"]) == ("newer", "3 3 * * *", "pending")


def test_a_task_with_a_refused_schedule_can_be_paused_and_renamed(
    alice_api: ContractClient, cast: Cast, trigger: Standin
) -> None:
    task = create_task(alice_api, cast)
    trigger.faults.add(Fault("status", times=1, method="POST"))
    patch_task(alice_api, task, schedule="1 1 * * *")
    refuse_schedules(trigger, "Invalid cron expression: too modern")
    renamed = patch_task(alice_api, task, title="Renamed", enabled=False)
    assert (renamed["title"], renamed["enabled"], renamed["sync_status"]) == ("Renamed", False, "refused")
    assert schedule_of(trigger, task).active is False


def test_sharing_an_organization_with_an_admin_does_not_grant_access_to_other_artists(
    cast: Cast, trigger: Standin
) -> None:
    club = Organization.objects.create(name="Club")
    for name in ("charlie", "dora"):
        Membership.objects.create(account=cast.person(name), organization=club)
    charlie, as_dora = with_key(make_key(cast.charlie)), {"account_id": str(cast.dora.pk)}
    for artist_id in (str(cast.alice.pk), str(cast.artist.pk), UNKNOWN):
        assert send_request(charlie, "POST", task_body(cast, artist_account_id=artist_id, **as_dora)).status_code == 403
    dora = with_key(make_key(cast.dora))
    assert send_request(dora, "POST", task_body(cast, artist_account_id=str(cast.alice.pk))).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE"])
def test_a_body_over_one_megabyte_is_a_400(alice_api: ContractClient, method: str) -> None:
    response = send_request(alice_api, method, b'{"title": "' + b"x" * 1024 * 1024 + b'"}')
    assert response.status_code == 400


def test_a_chunked_body_gets_a_content_length() -> None:
    environ = with_length({"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input": BytesIO(b"{}")})
    assert (environ["CONTENT_LENGTH"], environ["wsgi.input"].read()) == ("2", b"{}")
    with_content_length = {"CONTENT_LENGTH": "2", "wsgi.input": BytesIO(b"{}")}
    assert with_length(with_content_length) is with_content_length
