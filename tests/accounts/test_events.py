"""Events: every change through every way in leaves exactly one, without keys, tokens and prompts."""

import json
import logging
import threading
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import events
from accounts.events import account_actor
from accounts.models import AccountEmail, ApiKey, ArtistLink, Event, Identity, Membership, Organization
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from tasks import writes
from tasks.models import Task
from tasks.runs import run_now
from tests.cast import TESTER, Cast, make_cast, make_key, make_task
from tests.client import ContractClient, with_key

SECRET = "a prompt that nobody else may read"
BODY = {"title": "Report", "prompt": SECRET, "schedule": "0 9 * * *"}


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("sofie", password="a long password"))
    return client


@pytest.fixture
def task(cast: Cast) -> Task:
    return make_task(cast.alice, cast.artist, prompt=SECRET)


def only_event() -> Event:
    event = Event.objects.get()
    written = json.dumps([event.before, event.after, event.reason])
    assert SECRET not in written
    return event


def seen(event: Event) -> tuple[str, str, str, str]:
    return (event.target_kind, event.action, event.actor_kind, event.via)


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_a_new_task(alice_api: ContractClient, cast: Cast) -> None:
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    body = {**BODY, "artist_account_id": str(cast.artist.pk)}
    task = alice_api.post("/api/tasks", body, format="json").json()["tasks"][0]
    event = only_event()
    assert seen(event) == ("task", "created", "account", "api")
    assert (event.target_id, event.account_id, event.actor_id) == (task["id"], cast.alice.pk, str(cast.alice.pk))
    assert event.after["title"] == "Report"
    assert event.after["prompt"]["characters"] == len(SECRET)


def test_a_change_by_a_colleague_names_the_colleague_and_what_changed(cast: Cast, task: Task) -> None:
    body = {"id": str(task.pk), "enabled": False, "title": task.title, "prompt": "Another one"}
    assert with_key(make_key(cast.bob)).patch("/api/tasks", body, format="json").status_code == 200
    event = only_event()
    assert (event.account_id, event.actor_id) == (cast.alice.pk, str(cast.bob.pk))
    assert event.before["enabled"] is True
    assert event.after["enabled"] is False
    assert event.after.keys() == {"enabled", "prompt"}


def test_a_write_that_changes_nothing_leaves_no_event(alice_api: ContractClient, task: Task) -> None:
    body = {"id": str(task.pk), "title": task.title}
    assert alice_api.patch("/api/tasks", body, format="json").status_code == 200
    assert not Event.objects.exists()


def test_a_deleted_task_leaves_one_event_also_when_it_is_deleted_twice(task: Task) -> None:
    for _ in range(2):
        writes.delete_task(task, actor=TESTER, at=timezone.now())
    assert seen(only_event()) == ("task", "deleted", "command", "command")


def test_a_run_that_was_started_leaves_one_event_also_when_it_is_requested_again(
    alice_api: ContractClient, task: Task
) -> None:
    for _ in range(2):
        body = {"id": str(task.pk)}
        response = alice_api.post("/api/tasks/runs", body, format="json", headers={"Idempotency-Key": "x"})
    assert only_event().after == {"run_id": response.json()["runs"][0]["id"]}


@pytest.mark.django_db(transaction=True)
def test_two_requests_at_once_with_one_key_leave_one_event(transactional_db: None, trigger: Standin) -> None:
    """The second finds the run of the first at Trigger.dev, and stores it before the first does."""
    cast = make_cast()
    task = make_task(cast.alice, cast.artist)
    started, stored = threading.Event(), threading.Event()
    after = trigger.after

    def wait_for_the_other(request: Any) -> None:
        after(request)
        if request.method == "POST":
            started.set()
            stored.wait(10)

    trigger.after = wait_for_the_other

    def run() -> None:
        deadline = time.monotonic() + 20
        run_now.start(task, actor=account_actor(cast.alice), key="x", at=timezone.now(), deadline=deadline)

    def run_first() -> None:
        run()
        connection.close()

    first = threading.Thread(target=run_first)
    first.start()
    assert started.wait(10)
    run()
    stored.set()
    first.join()
    assert Event.objects.filter(action="started_run").count() == 1


def test_a_run_that_was_not_started_leaves_no_event(alice_api: ContractClient, task: Task, trigger: Standin) -> None:
    trigger.faults.add(Fault("status", method="POST", status=400))
    assert alice_api.post("/api/tasks/runs", {"id": str(task.pk)}, format="json").status_code == 500
    assert not Event.objects.exists()


def test_what_trigger_refuses_is_recorded_together_with_its_undoing(
    alice_api: ContractClient, task: Task, trigger: Standin
) -> None:
    reason = "Invalid cron expression: too modern"
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=reason))
    body = {"id": str(task.pk), "schedule": "1 1 * * *"}
    assert alice_api.patch("/api/tasks", body, format="json").status_code == 400
    undone, made = Event.objects.all()
    assert (made.after, undone.after) == ({"schedule": "1 1 * * *"}, {"schedule": "0 9 * * *"})
    assert undone.reason.startswith("Trigger.dev refuses the schedule")


def test_an_event_is_written_in_the_transaction_of_its_change(alice_api: ContractClient, task: Task) -> None:
    """The event table cannot be written: nothing changes either."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE accounts_event RENAME TO events_that_cannot_be_found")
    response = alice_api.patch("/api/tasks", {"id": str(task.pk), "title": "New"}, format="json")
    assert response.status_code == 500
    assert Task.objects.get().title == "Weekly report"


# --- The admin site and the commands ---------------------------------------------------------------------------------


def admin_add(browser: Client, path: str, data: dict[str, Any]) -> None:
    response = browser.post(f"/admin/accounts/{path}/add/", data)
    assert response.status_code in (200, 302)


MANAGEMENT = {
    "emails": {"TOTAL_FORMS": 0, "INITIAL_FORMS": 0},
    "memberships": {"TOTAL_FORMS": 0, "INITIAL_FORMS": 0},
}
FORMSETS = {f"{prefix}-{name}": value for prefix, form in MANAGEMENT.items() for name, value in form.items()}
ADDED_BY_STAFF: dict[str, Callable[[Cast], tuple[str, dict[str, Any]]]] = {
    "account": lambda cast: ("account", {"name": "Eve", **FORMSETS}),
    "account_email": lambda cast: ("accountemail", {"account": cast.alice.pk, "email": "second@example.com"}),
    "organization": lambda cast: ("organization", {"name": "Band", **FORMSETS}),
    "membership": lambda cast: (
        "membership",
        {"account": cast.alice.pk, "organization": Organization.objects.get(name="Staff").pk},
    ),
    "artist_link": lambda cast: ("artistlink", {"artist_account": cast.artist.pk, "account": cast.bob.pk}),
    "identity": lambda cast: ("identity", {"account": cast.bob.pk, "issuer": "https://i.example", "subject": "b"}),
    "api_key": lambda cast: ("apikey", {"account": cast.alice.pk, "name": "Agent"}),
}


@pytest.mark.parametrize("kind", ADDED_BY_STAFF)
def test_what_staff_add_leaves_one_event(browser: Client, cast: Cast, kind: str) -> None:
    path, data = ADDED_BY_STAFF[kind](cast)
    admin_add(browser, path, data)
    event = only_event()
    assert (*seen(event), event.actor_id) == (kind, "created", "staff", "admin", "sofie")


def test_what_staff_change_leaves_one_event_with_the_values(browser: Client, cast: Cast) -> None:
    link = ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    data = {"artist_account": cast.artist.pk, "account": cast.alice.pk, "pinned": "on"}
    browser.post(f"/admin/accounts/artistlink/{link.pk}/change/", data)
    event = only_event()
    assert (event.before, event.after) == ({"pinned": False}, {"pinned": True})


@pytest.mark.parametrize("kind", ["membership", "artistlink", "identity", "accountemail"])
def test_what_staff_give_to_another_account_leaves_one_event(browser: Client, cast: Cast, kind: str) -> None:
    link = ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    identity = Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="a")
    membership = Membership.objects.get(account=cast.alice)
    email = AccountEmail.objects.get(account=cast.alice)
    rows: dict[str, tuple[int, dict[str, Any]]] = {
        "membership": (membership.pk, {"organization": membership.organization_id}),
        "artistlink": (link.pk, {"artist_account": cast.artist.pk}),
        "identity": (identity.pk, {"issuer": identity.issuer, "subject": "a"}),
        "accountemail": (email.pk, {"email": email.email}),
    }
    pk, data = rows[kind]
    browser.post(f"/admin/accounts/{kind}/{pk}/change/", {**data, "account": cast.charlie.pk})
    event = only_event()
    assert event.before["account_id"] == str(cast.alice.pk)
    assert event.after["account_id"] == str(cast.charlie.pk)


def test_a_deleted_account_leaves_an_event_for_each_row_that_goes_with_it(browser: Client, cast: Cast) -> None:
    make_key(cast.charlie)
    browser.post(f"/admin/accounts/account/{cast.charlie.pk}/delete/", {"post": "yes"})
    found = sorted((event.target_kind, event.action) for event in Event.objects.all())
    kinds = ("account", "account_email", "api_key", "membership")
    assert found == [(kind, "deleted") for kind in kinds]


@pytest.mark.parametrize("kind", ["account", "organization", "apikey"])
def test_a_page_shows_the_changes_of_its_row(browser: Client, cast: Cast, kind: str) -> None:
    make_key(cast.alice)
    rows = {
        "account": cast.alice,
        "organization": Organization.objects.get(name="Label"),
        "apikey": ApiKey.objects.get(),
    }
    row, account_id = rows[kind], cast.alice.pk
    events.record("updated", row, account_id=account_id, actor=TESTER, at=timezone.now(), reason="As they wished")
    page = browser.get(f"/admin/accounts/{kind}/{row.pk}/change/").content.decode()
    assert "As they wished" in page
    assert "command tests, command" in page


def test_what_staff_save_unchanged_leaves_no_event(browser: Client, cast: Cast) -> None:
    link = ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    data = {"artist_account": cast.artist.pk, "account": cast.alice.pk}
    browser.post(f"/admin/accounts/artistlink/{link.pk}/change/", data)
    assert not Event.objects.exists()


def test_an_email_and_a_membership_on_the_page_of_an_account_leave_one_event_each(browser: Client, cast: Cast) -> None:
    email, membership = AccountEmail.objects.get(account=cast.alice), Membership.objects.get(account=cast.alice)
    staff = Organization.objects.get(name="Staff")
    data = {
        "name": "Alice",
        "emails-TOTAL_FORMS": 1,
        "emails-INITIAL_FORMS": 1,
        "emails-0-id": email.pk,
        "emails-0-account": cast.alice.pk,
        "emails-0-email": "new@example.com",
        "emails-0-is_primary": "on",
        "memberships-TOTAL_FORMS": 2,
        "memberships-INITIAL_FORMS": 1,
        "memberships-0-id": membership.pk,
        "memberships-0-account": cast.alice.pk,
        "memberships-0-organization": membership.organization_id,
        "memberships-0-DELETE": "on",
        "memberships-1-account": cast.alice.pk,
        "memberships-1-organization": staff.pk,
    }
    assert browser.post(f"/admin/accounts/account/{cast.alice.pk}/change/", data).status_code == 302
    found = sorted((event.target_kind, event.action, event.target_id) for event in Event.objects.all())
    made = Membership.objects.get(account=cast.alice)
    assert found == [
        ("account_email", "updated", str(email.pk)),
        ("membership", "created", str(made.pk)),
        ("membership", "deleted", str(membership.pk)),
    ]
    assert {event.account_id for event in Event.objects.all()} == {cast.alice.pk}


@pytest.mark.parametrize("way", ["page", "action"])
def test_what_staff_delete_leaves_one_event(browser: Client, cast: Cast, way: str) -> None:
    Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="a")
    identity = Identity.objects.get()
    if way == "page":
        browser.post(f"/admin/accounts/identity/{identity.pk}/delete/", {"post": "yes"})
    else:
        data = {"action": "delete_selected", "_selected_action": identity.pk, "post": "yes"}
        browser.post("/admin/accounts/identity/", data)
    assert not Identity.objects.exists()
    event = only_event()
    assert (event.target_id, event.before["subject"]) == (str(identity.pk), "a")


def test_a_key_that_staff_revoke_leaves_one_event(browser: Client, cast: Cast) -> None:
    make_key(cast.alice)
    for _ in range(2):
        data = {"action": "revoke", "_selected_action": ApiKey.objects.get().pk}
        browser.post("/admin/accounts/apikey/", data)
    assert only_event().after.keys() == {"revoked_at"}


@pytest.mark.parametrize("action", ["pause", "delete_selected", "run_now"])
def test_actions_of_staff_on_tasks_leave_one_event(browser: Client, task: Task, action: str) -> None:
    browser.post("/admin/tasks/task/", {"action": action, "_selected_action": str(task.pk), "post": "yes"})
    event = only_event()
    assert (event.target_id, event.actor_kind, event.actor_id) == (str(task.pk), "staff", "sofie")


def test_commands_leave_events(cast: Cast) -> None:
    call_command("create_api_key", "alice@example.com", stdout=StringIO(), stderr=StringIO())
    for _ in range(2):
        call_command("link_identity", "alice@example.com", "sub", issuer="https://i.example", stdout=StringIO())
    found = [(*seen(event), event.actor_id) for event in Event.objects.order_by("pk")]
    assert found == [
        ("api_key", "created", "command", "command", "create_api_key"),
        ("identity", "created", "command", "command", "link_identity"),
    ]


def test_keys_by_oneself_leave_events_without_the_key(alice_api: ContractClient, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    made = alice_api.post("/api/keys", {"key_name": "Agent"}, format="json").json()
    alice_api.delete("/api/keys", {"id": made["id"]}, format="json")
    assert [event.action for event in Event.objects.order_by("pk")] == ["created", "updated"]
    stored = json.dumps(list(Event.objects.values("before", "after", "actor_id", "target_id", "reason")))
    assert made["key"] not in stored
    assert made["key"] not in caplog.text


def test_an_event_is_never_changed_or_deleted(cast: Cast) -> None:
    events.record("created", cast.alice, account_id=cast.alice.pk, actor=TESTER, at=timezone.now())
    event = Event.objects.get()
    everything = Event.objects.all()
    for change in (event.save, event.delete, everything.delete, lambda: everything.update(reason="forged")):
        with pytest.raises(TypeError):
            change()
    assert Event.objects.get().reason == ""


# --- GET /api/tasks/events -------------------------------------------------------------------------------------------


def test_the_owner_sees_the_changes_of_a_task_without_names_of_staff(
    alice_api: ContractClient, browser: Client, task: Task, cast: Cast
) -> None:
    browser.post("/admin/tasks/task/", {"action": "pause", "_selected_action": str(task.pk)})
    alice_api.patch("/api/tasks", {"id": str(task.pk), "enabled": True}, format="json")
    alice_api.delete(f"/api/tasks?id={task.pk}")
    answer = alice_api.get(f"/api/tasks/events?id={task.pk}")
    assert b"sofie" not in answer.content
    found = [(one["action"], one["actor_kind"], one["actor_account_id"], one["via"]) for one in answer.json()["events"]]
    alice = str(cast.alice.pk)
    assert found == [
        ("deleted", "account", alice, "api"),
        ("updated", "account", alice, "api"),
        ("updated", "staff", None, "admin"),
    ]


def test_events_come_page_by_page(alice_api: ContractClient, task: Task) -> None:
    at = timezone.now()
    for number in range(5):
        events.record("updated", task, account_id=task.account_id, actor=TESTER, at=at, after={"title": number})
    titles, query = list[int](), "&limit=2"
    while query:
        body = alice_api.get(f"/api/tasks/events?id={task.pk}{query}").json()
        titles += [event["after"]["title"] for event in body["events"]]
        query = f"&limit=2&cursor={body['next_cursor']}" if body["next_cursor"] else ""
    assert titles == [4, 3, 2, 1, 0]


def test_events_of_a_foreign_task_look_like_those_of_an_unknown_one(cast: Cast, task: Task) -> None:
    charlie = with_key(make_key(cast.charlie))
    foreign, unknown = (charlie.get(f"/api/tasks/events?id={id}") for id in (task.pk, cast.alice.pk))
    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    assert with_key(make_key(cast.bob)).get(f"/api/tasks/events?id={task.pk}").status_code == 200
    assert with_key(make_key(cast.dora)).get(f"/api/tasks/events?id={task.pk}").status_code == 200


@pytest.mark.parametrize("query", ["", "?id=x", "?id={id}&limit=0", "?id={id}&cursor=x", "?id={id}&x=1"])
def test_an_invalid_query_of_events_is_a_400(alice_api: ContractClient, task: Task, query: str) -> None:
    assert alice_api.get("/api/tasks/events" + query.format(id=task.pk)).status_code == 400
