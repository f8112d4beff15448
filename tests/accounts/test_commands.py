import json
import os
import subprocess
import sys
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from accounts.models import Account, ApiKey, Identity
from demo.standin.standin import Standin
from demo.standin.state import State
from tasks.models import Task
from tests.cast import Cast
from tests.client import with_key


@pytest.fixture
def standin_folder(settings: Settings, tmp_path: Any) -> Any:
    settings.STANDIN_FOLDER = tmp_path
    return tmp_path


def seeded() -> dict[str, Any]:
    output = StringIO()
    call_command("seed_demo", "--json", stdout=output)
    found: dict[str, Any] = json.loads(output.getvalue())
    return found


@pytest.mark.usefixtures("db")
def test_seeding_again_changes_nothing(standin_folder: Any) -> None:
    first = seeded()
    Task.objects.filter(title="New release radar").update(title="Renamed by a visitor")
    counts = Account.objects.count(), Task.objects.count()
    assert seeded() == first
    assert (Account.objects.count(), Task.objects.count()) == counts
    assert Task.objects.filter(title="Renamed by a visitor").exists()


@pytest.mark.usefixtures("db")
def test_the_demos_people_see_what_they_should(standin_folder: Any, trigger: Standin) -> None:
    ids = seeded()
    trigger.state.close()
    trigger.state = State(standin_folder)
    clients = {name: with_key(account["api_key"]) for name, account in ids["accounts"].items()}
    alice = ids["accounts"]["alice"]["id"]
    tasks = clients["alice"].get("/api/tasks").json()["tasks"]
    assert {task["timezone"] for task in tasks} == {"Europe/London", "America/New_York"}
    assert all(task["recent_runs"] for task in tasks if task["title"] != "Festival season plan")
    shared = clients["bob"].get(f"/api/tasks?account_id={alice}").json()["tasks"]
    assert [task["id"] for task in shared] == [task["id"] for task in tasks]
    assert clients["charlie"].get(f"/api/tasks?account_id={alice}").status_code == 403
    assert clients["dora"].get(f"/api/tasks?account_id={alice}").status_code == 200
    paused = (
        clients["alice"].patch("/api/tasks", {"id": tasks[0]["id"], "enabled": False}, format="json").json()["tasks"][0]
    )
    assert (paused["trigger_schedule_id"], paused["sync_status"]) == (tasks[0]["trigger_schedule_id"], "in_sync")
    (batch,) = clients["alice"].get(f"/api/tasks/runs?runId={ids['runs']['batch']}").json()["runs"]
    assert len(batch["relatedRuns"]["children"]) == 1


@pytest.mark.usefixtures("db")
def test_demo_data_is_refused_beside_a_real_trigger(settings: Settings) -> None:
    settings.TRIGGER_IS_LOCAL = False
    with pytest.raises(CommandError, match="keys are public"):
        call_command("seed_demo")
    assert Account.objects.count() == 0


# --- Keys and identities ---------------------------------------------------------------------------------------------


def run(*arguments: str) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output, stderr=StringIO())
    return output.getvalue().strip()


@pytest.mark.parametrize("name", ["alice@example.com", "ALICE@EXAMPLE.COM", "{id}"])
def test_an_operator_makes_a_key_for_an_account(cast: Cast, name: str) -> None:
    key = run("create_api_key", name.format(id=cast.alice.pk))
    assert with_key(key).get("/api/tasks").status_code == 200


def test_a_key_as_json_with_an_end(cast: Cast) -> None:
    made = json.loads(run("create_api_key", "alice@example.com", "--days", "3", "--name", "Agent", "--json"))
    key = ApiKey.objects.get()
    assert made == {"account_id": str(cast.alice.pk), "id": key.pk, "prefix": key.prefix, "key": made["key"]}
    assert key.expires_at is not None
    assert key.name == "Agent"


def test_a_first_account_is_made_with_its_key(db: None) -> None:
    key = run("create_api_key", "first@example.com", "--create", "First Label")
    assert with_key(key).get("/api/tasks").status_code == 200
    assert Account.objects.get().name == "First Label"
    run("create_api_key", "first@example.com", "--create", "Not again")
    assert Account.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create_api_key", "nobody@example.com"], "No account has the id or the e-mail address"),
        (["create_api_key", "no address", "--create", "X"], "No account"),
        (["create_api_key", "alice@example.com", "--days", "0"], "--days must be 1 or more"),
        (["link_identity", "nobody@example.com", "sub", "--issuer", "i"], "No account"),
        (["link_identity", "alice@example.com", "sub"], "an --issuer is needed"),
        (["link_identity", "alice@example.com", "", "--issuer", "i"], "must not be empty"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_made(cast: Cast, arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        run(*arguments)
    assert (ApiKey.objects.count(), Identity.objects.count(), Account.objects.count()) == (0, 0, 5)


def in_a_process_of_its_own(code: str, **environment: str) -> str:
    """What it prints: settings are read once, and a worker begins once."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_options_of_a_database_url_hold() -> None:
    url = "postgres://u:p@db.example.org/recoup?sslmode=require"
    show = "from recoup import settings; print(settings.DATABASES['default']['OPTIONS'])"
    shown = in_a_process_of_its_own(show, DATABASE_URL=url)
    assert "'sslmode': 'require'" in shown
    assert "'pool'" in shown


def test_the_first_requests_of_a_worker_may_come_at_once() -> None:
    ask = """
import recoup.wsgi
from concurrent.futures import ThreadPoolExecutor
from django.test import Client
def ask(_):
    return Client(raise_request_exception=False).get("/api/schema/", headers={"host": "localhost"}).status_code
print(*ThreadPoolExecutor(6).map(ask, range(12)))
"""
    assert set(in_a_process_of_its_own(ask).split()) == {"200"}


def test_an_identity_is_linked_once(cast: Cast) -> None:
    arguments = ("link_identity", "alice@example.com", "did:x", "--issuer", "https://i.example", "--json")
    assert json.loads(run(*arguments))["made"] is True
    assert json.loads(run(*arguments))["made"] is False
    assert Identity.objects.get().account == cast.alice
    with pytest.raises(CommandError, match="is Alice already"):
        run("link_identity", "bob@example.com", "did:x", "--issuer", "https://i.example")
