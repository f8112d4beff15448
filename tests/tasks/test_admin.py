"""The admin site: staff manage accounts, look at tasks, and see a key once. Trigger.dev is never asked."""

import re
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries, Settings

from accounts import staff
from accounts.models import Account, ApiKey, Identity
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from tasks import writes
from tasks.models import RunRequest, Task
from tests.cast import Cast, make_key, make_task
from tests.client import with_key

LISTS = ["account", "accountemail", "organization", "membership", "artistlink", "identity", "apikey"]
PATHS = [*(f"/admin/accounts/{name}/" for name in LISTS), "/admin/tasks/task/"]


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("staff", password="a long password"))
    return client


@pytest.mark.parametrize("path", PATHS)
def test_every_list_opens_and_is_searched_without_asking_trigger(
    browser: Client, cast: Cast, trigger: Standin, path: str
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    make_key(cast.alice)
    Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="s")
    for query in ("", "?q=alice", f"?q={task.pk}", "?q=%00%27%25"):
        assert browser.get(path + query).status_code == 200
    assert trigger.asked["all"] == 0


def test_the_list_of_tasks_costs_the_same_for_any_number(
    browser: Client, cast: Cast, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        make_task(cast.alice, cast.artist, title=f"Task {number}")
    # session, user, two counts, the bounds of the dates and their months, the filter's zones, the tasks
    with django_assert_num_queries(8):
        browser.get("/admin/tasks/task/")


@pytest.mark.parametrize(("choice", "title"), [("in_sync", "settled"), ("pending", "waiting"), ("refused", "unwanted")])
def test_tasks_are_filtered_by_their_sync_status(browser: Client, cast: Cast, choice: str, title: str) -> None:
    make_task(cast.alice, cast.artist, title="settled")
    make_task(cast.alice, cast.artist, title="waiting", generation=2)
    make_task(cast.alice, cast.artist, title="unwanted", generation=2, refused_generation=2)
    page = browser.get(f"/admin/tasks/task/?sync={choice}").content.decode()
    assert [name for name in ("settled", "waiting", "unwanted") if f">{name}</a>" in page] == [title]


@pytest.mark.parametrize("fields", [{}, {"schedule": "never"}, {"enabled": False}, {"deleted_at": timezone.now()}])
def test_a_task_is_shown_in_every_state(browser: Client, cast: Cast, fields: dict[str, Any]) -> None:
    task = make_task(cast.alice, cast.artist, **fields)
    assert "Weekly report" in browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()


def form(cast: Cast, **changes: Any) -> dict[str, Any]:
    filled = {"title": "Report", "prompt": "Write it.", "schedule": "0 9 * * *", "timezone": "UTC", "enabled": "true"}
    return {**filled, "account": cast.alice.pk, "artist_account": cast.artist.pk, "model": "", **changes}


def test_a_task_made_in_the_admin_has_its_schedule(browser: Client, cast: Cast, trigger: Standin) -> None:
    assert browser.post("/admin/tasks/task/add/", form(cast)).status_code == 302
    task = Task.objects.get()
    assert (task.sync_status, task.model) == ("in_sync", None)
    assert trigger.state.schedule(str(task.pk)) is not None


def test_a_task_changed_in_the_admin_changes_its_schedule(browser: Client, cast: Cast, trigger: Standin) -> None:
    browser.post("/admin/tasks/task/add/", form(cast))
    task = Task.objects.get()
    changed = form(cast, schedule="5 5 * * *", enabled="false", account=cast.charlie.pk)
    assert browser.post(f"/admin/tasks/task/{task.pk}/change/", changed).status_code == 302
    schedule = trigger.state.schedule(str(task.pk))
    assert schedule is not None
    assert (schedule.cron, schedule.active) == ("5 5 * * *", False)
    assert Task.objects.get().account == cast.alice, "a task never moves"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"schedule": "0 24 * * *"}, "hour must be from 0 to 23"),
        ({"timezone": "europe/london"}, "Did you mean"),
        ({"prompt": "x" * 50_001}, "at most 50000 characters"),
    ],
)
def test_a_mistake_in_the_form_is_said_beside_what_was_typed(
    browser: Client, cast: Cast, trigger: Standin, wrong: dict[str, str], reason: str
) -> None:
    page = browser.post("/admin/tasks/task/add/", form(cast, title="Typed with care", **wrong)).content.decode()
    assert reason in page
    assert "Typed with care" in page
    assert (Task.objects.count(), trigger.asked["all"]) == (0, 0)


def test_what_trigger_refuses_is_a_mistake_in_the_form(browser: Client, cast: Cast, trigger: Standin) -> None:
    refusal = "Invalid cron expression: too modern"
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=refusal))
    page = browser.post("/admin/tasks/task/add/", form(cast, title="Typed with care")).content.decode()
    assert "too modern" in page
    assert "Typed with care" in page
    assert Task.objects.count() == 0


def test_a_pending_task_says_why(browser: Client, cast: Cast, trigger: Standin) -> None:
    trigger.faults.add(Fault("reset"))
    browser.post("/admin/tasks/task/add/", form(cast))
    page = browser.get("/admin/tasks/task/").content.decode()
    assert "Not yet at Trigger.dev. Trigger.dev cannot be reached" in page
    assert "cannot be reached" in browser.get(f"/admin/tasks/task/{Task.objects.get().pk}/change/").content.decode()


def act_on_all(browser: Client, action: str) -> None:
    chosen = [str(task.pk) for task in Task.objects.all()]
    page = browser.post("/admin/tasks/task/", {"action": action, "_selected_action": chosen, "post": "yes"})
    assert page.status_code == 302


def test_pause_resume_and_sync_now(browser: Client, cast: Cast, trigger: Standin) -> None:
    browser.post("/admin/tasks/task/add/", form(cast))
    made = trigger.state.schedules()[0]
    for action, active in (("pause", False), ("resume", True)):
        act_on_all(browser, action)
        assert [(schedule.id, schedule.active) for schedule in trigger.state.schedules()] == [(made.id, active)]
    trigger.state.remove_schedule(made.id)
    act_on_all(browser, "sync_now")
    assert trigger.state.count_schedules() == 1


def test_a_stale_form_writes_only_what_its_person_changed(browser: Client, cast: Cast, trigger: Standin) -> None:
    browser.post("/admin/tasks/task/add/", form(cast))
    task = Task.objects.get()
    shown = {f"initial-{name}": value for name, value in form(cast).items()}
    writes.update_task(task, {"enabled": False, "schedule": "7 7 * * *"}, at=timezone.now())
    browser.post(f"/admin/tasks/task/{task.pk}/change/", {**form(cast, title="Without a typo"), **shown})
    row = Task.objects.get()
    assert (row.title, row.enabled, row.schedule) == ("Without a typo", False, "7 7 * * *")


def test_resuming_what_trigger_refuses_is_said_and_no_crash(browser: Client, cast: Cast, trigger: Standin) -> None:
    make_task(cast.alice, cast.artist, enabled=False, synced_generation=0)
    refusal = "Invalid cron expression: too modern"
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=refusal))
    act_on_all(browser, "resume")
    assert Task.objects.get().sync_status == "refused"


def test_staff_run_a_task_now_and_see_who_did(browser: Client, cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)
    page = browser.post(
        "/admin/tasks/task/", {"action": "run_now", "_selected_action": [task.pk]}, follow=True
    ).content.decode()
    run_id = str(RunRequest.objects.get().run_id)
    assert f"{run_id} was started" in page
    assert trigger.state.run(run_id)
    page = browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()
    assert f"staff (staff): {run_id}" in page


def test_a_run_that_trigger_did_not_confirm_is_said(browser: Client, cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)
    trigger.faults.add(Fault("hang", path="/api/v1/tasks/*"))
    chosen = {"action": "run_now", "_selected_action": [task.pk]}
    page = browser.post("/admin/tasks/task/", chosen, follow=True).content.decode()
    assert "it is not known whether a run was started" in page
    page = browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()
    assert "not confirmed" in page


@pytest.mark.parametrize("way", ["one", "selected"])
def test_deleting_in_the_admin_leaves_the_evidence_and_no_schedule(
    browser: Client, cast: Cast, trigger: Standin, way: str
) -> None:
    browser.post("/admin/tasks/task/add/", form(cast))
    task = Task.objects.get()
    if way == "one":
        browser.post(f"/admin/tasks/task/{task.pk}/delete/", {"post": "yes"})
    else:
        act_on_all(browser, "delete_selected")
    row = Task.objects.get()
    assert (row.title, row.deleted_at is not None, trigger.state.count_schedules()) == ("", True, 0)
    assert browser.post(f"/admin/tasks/task/{task.pk}/change/", form(cast)).status_code == 403


def make_key_in(browser: Client, account: Account) -> tuple[str, Any]:
    page = browser.post("/admin/accounts/apikey/add/", {"account": account.pk, "name": "Nightly agent"})
    found = re.search(r"recoup_sk_[\w-]{43}", page.content.decode())
    assert found
    return found[0], page


def test_a_key_is_shown_once_and_works(browser: Client, cast: Cast) -> None:
    key, page = make_key_in(browser, cast.alice)
    assert "no-store" in page["Cache-Control"]
    assert with_key(key).get("/api/tasks").status_code == 200
    made = ApiKey.objects.get()
    for path in ("/admin/accounts/apikey/", f"/admin/accounts/apikey/{made.pk}/change/", "/admin/"):
        page = browser.get(path).content.decode()
        assert key not in page
        assert made.digest not in page
    assert all(key not in str(session.get_decoded()) for session in Session.objects.all())
    assert key not in str(browser.cookies)


def test_a_saved_key_keeps_its_digest_and_its_account(browser: Client, cast: Cast) -> None:
    key, _ = make_key_in(browser, cast.alice)
    made = ApiKey.objects.get()
    browser.post(f"/admin/accounts/apikey/{made.pk}/change/", {"account": cast.charlie.pk, "name": "Renamed"})
    changed = ApiKey.objects.get()
    assert (changed.name, changed.digest, changed.account) == ("Renamed", made.digest, cast.alice)
    assert with_key(key).get("/api/tasks").status_code == 200


def test_a_revoked_key_stops_working_at_once(browser: Client, cast: Cast) -> None:
    key, _ = make_key_in(browser, cast.alice)
    chosen = {"action": "revoke", "_selected_action": [ApiKey.objects.get().pk]}
    browser.post("/admin/accounts/apikey/", chosen)
    assert with_key(key).get("/api/tasks").status_code == 401
    assert "revoked" in browser.get("/admin/accounts/apikey/").content.decode()


def test_the_list_of_keys_says_which_are_expired(browser: Client, cast: Cast) -> None:
    make_key(cast.alice, expires_at=timezone.now() - timedelta(days=1))
    assert "expired" in browser.get("/admin/accounts/apikey/").content.decode()


def test_the_demos_user_gets_in_beside_a_local_trigger_only(db: None, settings: Settings) -> None:
    get_user_model().objects.create_superuser(staff.DEMO_NAME, password=staff.DEMO_PASSWORD)
    client = Client()
    assert client.login(username=staff.DEMO_NAME, password=staff.DEMO_PASSWORD)
    assert client.get("/admin/").status_code == 200
    settings.TRIGGER_IS_LOCAL = False
    assert client.get("/admin/").status_code == 302, "and a session of it ends"
    assert not client.login(username=staff.DEMO_NAME, password=staff.DEMO_PASSWORD)


@pytest.mark.parametrize("path", ["/admin/", "/admin/tasks/task/", "/admin/accounts/apikey/"])
def test_an_api_key_opens_no_door_of_the_admin(cast: Cast, path: str) -> None:
    assert Client().get(path, HTTP_X_API_KEY=make_key(cast.dora)).status_code == 302


def test_the_docs_and_what_they_load_come_from_here(db: None, settings: Settings) -> None:
    settings.WHITENOISE_USE_FINDERS = True
    page = Client().get("/api/docs/").content.decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert loaded
    assert all(url.startswith("/static/") for url in loaded)
    client = Client()
    for url in loaded:
        with closing(client.get(url)) as file:
            assert file.status_code == 200
    assert "https://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
