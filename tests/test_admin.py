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
from tasks.models import Task
from tasks.trigger.standin.wire import Standin
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
def test_a_task_is_shown_and_cannot_be_changed(browser: Client, cast: Cast, fields: dict[str, Any]) -> None:
    task = make_task(cast.alice, cast.artist, **fields)
    assert "Weekly report" in browser.get(f"/admin/tasks/task/{task.pk}/change/").content.decode()
    assert browser.post(f"/admin/tasks/task/{task.pk}/change/", {"title": "x"}).status_code == 403
    assert browser.get("/admin/tasks/task/add/").status_code == 403
    assert browser.post(f"/admin/tasks/task/{task.pk}/delete/", {"post": "yes"}).status_code == 403
    assert Task.objects.get().title == "Weekly report"


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
