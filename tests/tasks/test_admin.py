"""The admin site: staff manage accounts, tasks and API keys. Reading pages never calls Trigger.dev."""

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
from accounts.models import Account, ApiKey, ArtistLink, Identity
from demo.standin.faults import Fault
from demo.standin.standin import Standin
from tasks import writes
from tasks.models import RunRequest, Task
from tests.cast import TESTER, Cast, make_key, make_task
from tests.client import with_key

ACCOUNT_MODELS = ["account", "accountemail", "organization", "membership", "artistlink", "identity", "apikey"]
LIST_PATHS = [*(f"/admin/accounts/{name}/" for name in ACCOUNT_MODELS), "/admin/tasks/task/"]


@pytest.fixture
def browser(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("staff", password="a long password"))
    return client


@pytest.mark.parametrize("path", LIST_PATHS)
def test_every_list_page_and_its_search_work_without_calling_trigger(
    browser: Client, cast: Cast, trigger: Standin, path: str
) -> None:
    task = make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    make_key(cast.alice)
    Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="s")
    for query in ("", "?q=alice", f"?q={task.pk}", "?q=%27%25"):
        assert browser.get(path + query).status_code == 200
    assert trigger.asked["all"] == 0


def test_the_task_list_costs_a_fixed_number_of_queries(
    browser: Client, cast: Cast, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(30):
        make_task(cast.alice, cast.artist, title=f"Task {number}")
    # 1. session  2. user  3. a count that is bounded  4. tasks
    with django_assert_num_queries(4):
        browser.get("/admin/tasks/task/")


@pytest.mark.parametrize(
    ("choice", "title"), [("in_sync", "Synced task"), ("pending", "Pending task"), ("refused", "Refused task")]
)
def test_the_sync_status_filter(browser: Client, cast: Cast, choice: str, title: str) -> None:
    make_task(cast.alice, cast.artist, title="Synced task")
    make_task(cast.alice, cast.artist, title="Pending task", generation=2)
    make_task(cast.alice, cast.artist, title="Refused task", generation=2, refused_generation=2)
    page = browser.get(f"/admin/tasks/task/?sync={choice}").content.decode()
    assert [name for name in ("Synced task", "Pending task", "Refused task") if f">{name}</a>" in page] == [title]


@pytest.mark.parametrize("fields", [{}, {"schedule": "never"}, {"enabled": False}, {"deleted_at": timezone.now()}])
def test_a_task_page_opens_in_every_state(browser: Client, cast: Cast, fields: dict[str, Any]) -> None:
    task = make_task(cast.alice, cast.artist, **fields)
    assert "Weekly report" in browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()


def form_data(cast: Cast, **changes: Any) -> dict[str, Any]:
    """Alice works with the artist."""
    ArtistLink.objects.get_or_create(artist_account=cast.artist, account=cast.alice)
    fields = {"title": "Report", "prompt": "Write it.", "schedule": "0 9 * * *", "timezone": "UTC", "enabled": "true"}
    return {**fields, "account": cast.alice.pk, "artist_account": cast.artist.pk, "model": "", **changes}


def test_creating_a_task_in_the_admin_creates_its_schedule(browser: Client, cast: Cast, trigger: Standin) -> None:
    assert browser.post("/admin/tasks/task/add/", form_data(cast)).status_code == 302
    task = Task.objects.get()
    assert (task.sync_status, task.model) == ("in_sync", None)
    assert trigger.state.schedule(str(task.pk)) is not None


def test_changing_a_task_in_the_admin_changes_its_schedule(browser: Client, cast: Cast, trigger: Standin) -> None:
    browser.post("/admin/tasks/task/add/", form_data(cast))
    task = Task.objects.get()
    changed = form_data(cast, schedule="5 5 * * *", enabled="false", account=cast.charlie.pk)
    assert browser.post(f"/admin/tasks/task/{task.pk}/change/", changed).status_code == 302
    schedule = trigger.state.schedule(str(task.pk))
    assert schedule is not None
    assert (schedule.cron, schedule.active) == ("5 5 * * *", False)
    assert Task.objects.get().account == cast.alice, "a task cannot move to another account"


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"schedule": "0 24 * * *"}, "hour must be from 0 to 23"),
        ({"timezone": "europe/london"}, "Did you mean"),
        ({"prompt": "x" * 50_001}, "at most 50000 characters"),
    ],
)
def test_a_validation_error_keeps_the_submitted_values(
    browser: Client, cast: Cast, trigger: Standin, invalid: dict[str, str], message: str
) -> None:
    page = browser.post("/admin/tasks/task/add/", form_data(cast, title="Submitted title", **invalid)).content.decode()
    assert message in page
    assert "Submitted title" in page
    assert (Task.objects.count(), trigger.asked["all"]) == (0, 0)


def test_a_schedule_that_trigger_refuses_is_a_validation_error(browser: Client, cast: Cast, trigger: Standin) -> None:
    refusal = "Invalid cron expression: too modern"
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=refusal))
    page = browser.post("/admin/tasks/task/add/", form_data(cast, title="Submitted title")).content.decode()
    assert "too modern" in page
    assert "Submitted title" in page
    assert Task.objects.count() == 0


def test_a_pending_task_shows_the_reason(browser: Client, cast: Cast, trigger: Standin) -> None:
    trigger.faults.add(Fault("reset"))
    browser.post("/admin/tasks/task/add/", form_data(cast))
    page = browser.get("/admin/tasks/task/").content.decode()
    assert "Not yet at Trigger.dev. Trigger.dev cannot be reached" in page
    assert "cannot be reached" in browser.get(f"/admin/tasks/task/{Task.objects.get().pk}/change/").content.decode()


def run_action_on_all_tasks(browser: Client, action: str) -> None:
    selected = [str(task.pk) for task in Task.objects.all()]
    page = browser.post("/admin/tasks/task/", {"action": action, "_selected_action": selected, "post": "yes"})
    assert page.status_code == 302


def test_the_actions_pause_resume_and_sync_now(browser: Client, cast: Cast, trigger: Standin) -> None:
    browser.post("/admin/tasks/task/add/", form_data(cast))
    created = trigger.state.schedules()[0]
    for action, active in (("pause", False), ("resume", True)):
        run_action_on_all_tasks(browser, action)
        assert [(schedule.id, schedule.active) for schedule in trigger.state.schedules()] == [(created.id, active)]
    trigger.state.remove_schedule(created.id)
    run_action_on_all_tasks(browser, "sync_now")
    assert trigger.state.count_schedules() == 1


def test_a_stale_form_saves_only_the_fields_that_were_changed_in_it(
    browser: Client, cast: Cast, trigger: Standin
) -> None:
    browser.post("/admin/tasks/task/add/", form_data(cast))
    task = Task.objects.get()
    initial = {f"initial-{name}": value for name, value in form_data(cast).items()}
    writes.update_task(task, {"enabled": False, "schedule": "7 7 * * *"}, actor=TESTER, at=timezone.now())
    browser.post(f"/admin/tasks/task/{task.pk}/change/", {**form_data(cast, title="Without a typo"), **initial})
    row = Task.objects.get()
    assert (row.title, row.enabled, row.schedule) == ("Without a typo", False, "7 7 * * *")


def test_resuming_a_task_whose_schedule_trigger_refuses_does_not_crash(
    browser: Client, cast: Cast, trigger: Standin
) -> None:
    make_task(cast.alice, cast.artist, enabled=False, synced_generation=0)
    refusal = "Invalid cron expression: too modern"
    trigger.faults.add(Fault("status", method="POST", path="/api/v1/schedules", status=422, message=refusal))
    run_action_on_all_tasks(browser, "resume")
    assert Task.objects.get().sync_status == "refused"


def test_staff_run_a_task_now_and_the_task_page_shows_who_requested_it(
    browser: Client, cast: Cast, trigger: Standin
) -> None:
    task = make_task(cast.alice, cast.artist)
    page = browser.post(
        "/admin/tasks/task/", {"action": "run_now", "_selected_action": [task.pk]}, follow=True
    ).content.decode()
    run_id = str(RunRequest.objects.get().run_id)
    assert f"{run_id} was started" in page
    assert trigger.state.run(run_id)
    page = browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()
    assert "staff staff, admin site" in page
    assert f"run_id: {run_id}" in page


def test_an_unconfirmed_run_is_reported(browser: Client, cast: Cast, trigger: Standin) -> None:
    task = make_task(cast.alice, cast.artist)
    trigger.faults.add(Fault("hang", path="/api/v1/tasks/*"))
    selected = {"action": "run_now", "_selected_action": [task.pk]}
    page = browser.post("/admin/tasks/task/", selected, follow=True).content.decode()
    assert "the run was not confirmed" in page
    page = browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()
    assert "is not confirmed" in page


@pytest.mark.parametrize("view", ["delete_page", "delete_action"])
def test_deleting_a_task_in_the_admin_keeps_the_row_and_deletes_the_schedule(
    browser: Client, cast: Cast, trigger: Standin, view: str
) -> None:
    browser.post("/admin/tasks/task/add/", form_data(cast))
    task = Task.objects.get()
    if view == "delete_page":
        browser.post(f"/admin/tasks/task/{task.pk}/delete/", {"post": "yes"})
    else:
        run_action_on_all_tasks(browser, "delete_selected")
    row = Task.objects.get()
    assert (row.title, row.deleted_at is not None, trigger.state.count_schedules()) == ("", True, 0)
    assert browser.post(f"/admin/tasks/task/{task.pk}/change/", form_data(cast)).status_code == 403


def create_key_in_admin(browser: Client, account: Account) -> tuple[str, Any]:
    page = browser.post("/admin/accounts/apikey/add/", {"account": account.pk, "name": "Nightly agent"})
    match = re.search(r"recoup_sk_[\w-]{43}", page.content.decode())
    assert match
    return match[0], page


def test_an_api_key_is_shown_once_and_works(browser: Client, cast: Cast) -> None:
    key, page = create_key_in_admin(browser, cast.alice)
    assert "no-store" in page["Cache-Control"]
    assert with_key(key).get("/api/tasks").status_code == 200
    api_key = ApiKey.objects.get()
    for path in ("/admin/accounts/apikey/", f"/admin/accounts/apikey/{api_key.pk}/change/", "/admin/"):
        page = browser.get(path).content.decode()
        assert key not in page
        assert api_key.digest not in page
    assert all(key not in str(session.get_decoded()) for session in Session.objects.all())
    assert key not in str(browser.cookies)


def test_saving_an_api_key_keeps_its_digest_and_account(browser: Client, cast: Cast) -> None:
    key, _ = create_key_in_admin(browser, cast.alice)
    api_key = ApiKey.objects.get()
    browser.post(f"/admin/accounts/apikey/{api_key.pk}/change/", {"account": cast.charlie.pk, "name": "Renamed"})
    changed = ApiKey.objects.get()
    assert (changed.name, changed.digest, changed.account) == ("Renamed", api_key.digest, cast.alice)
    assert with_key(key).get("/api/tasks").status_code == 200


def test_a_revoked_api_key_stops_working_immediately(browser: Client, cast: Cast) -> None:
    key, _ = create_key_in_admin(browser, cast.alice)
    selected = {"action": "revoke", "_selected_action": [ApiKey.objects.get().pk]}
    browser.post("/admin/accounts/apikey/", selected)
    assert with_key(key).get("/api/tasks").status_code == 401
    assert "revoked" in browser.get("/admin/accounts/apikey/").content.decode()


def test_the_api_key_list_shows_which_keys_are_expired(browser: Client, cast: Cast) -> None:
    make_key(cast.alice, expires_at=timezone.now() - timedelta(days=1))
    assert "expired" in browser.get("/admin/accounts/apikey/").content.decode()


def test_the_demo_user_can_log_in_only_with_a_local_trigger(db: None, settings: Settings) -> None:
    get_user_model().objects.create_superuser(staff.DEMO_NAME, password=staff.DEMO_PASSWORD)
    client, credentials = Client(), {"username": staff.DEMO_NAME, "password": staff.DEMO_PASSWORD}
    assert client.post("/admin/login/", credentials).status_code == 302
    assert client.get("/admin/").status_code == 200
    settings.IS_DEVELOPMENT = False
    assert client.get("/admin/").status_code == 302, "its open session ends too"
    assert client.post("/admin/login/", credentials).status_code == 200, "the form again, with an error"


@pytest.mark.parametrize("path", ["/admin/", "/admin/tasks/task/", "/admin/accounts/apikey/"])
def test_an_api_key_does_not_authenticate_in_the_admin(cast: Cast, path: str) -> None:
    assert Client().get(path, HTTP_X_API_KEY=make_key(cast.dora)).status_code == 302


def test_the_api_docs_load_only_local_static_files(db: None, settings: Settings) -> None:
    settings.WHITENOISE_USE_FINDERS = True
    page = Client().get("/api/docs/").content.decode()
    urls = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert urls
    assert all(url.startswith(("/static/", "/api/docs/")) for url in urls)
    client = Client()
    for url in urls:
        with closing(client.get(url)) as file:
            assert file.status_code == 200
    assert "https://" not in re.sub(r"http://www\.w3\.org/\S+", "", page)
