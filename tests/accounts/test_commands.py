"""The commands of an operator: seed_demo, create_api_key and link_identity."""

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


def seed_demo() -> dict[str, Any]:
    output = StringIO()
    call_command("seed_demo", "--json", stdout=output)
    ids: dict[str, Any] = json.loads(output.getvalue())
    return ids


@pytest.mark.usefixtures("db")
def test_seed_demo_twice_changes_nothing(standin_folder: Any) -> None:
    first = seed_demo()
    Task.objects.filter(title="New release radar").update(title="Renamed by a user")
    counts = Account.objects.count(), Task.objects.count()
    assert seed_demo() == first
    assert (Account.objects.count(), Task.objects.count()) == counts
    assert Task.objects.filter(title="Renamed by a user").exists()


@pytest.mark.usefixtures("db")
def test_alice_bob_charlie_and_dora_of_the_demo_see_what_access_rules_allow(
    standin_folder: Any, trigger: Standin
) -> None:
    ids = seed_demo()
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
def test_seed_demo_is_refused_with_a_real_trigger(settings: Settings) -> None:
    settings.IS_DEVELOPMENT = False
    with pytest.raises(CommandError, match="keys are public"):
        call_command("seed_demo")
    assert Account.objects.count() == 0


# --- Keys and identities ---------------------------------------------------------------------------------------------


def run_command(*arguments: str) -> str:
    output = StringIO()
    call_command(*arguments, stdout=output, stderr=StringIO())
    return output.getvalue().strip()


@pytest.mark.parametrize("account", ["alice@example.com", "ALICE@EXAMPLE.COM", "{id}"])
def test_an_operator_creates_an_api_key_for_an_account(cast: Cast, account: str) -> None:
    key = run_command("create_api_key", account.format(id=cast.alice.pk))
    assert with_key(key).get("/api/tasks").status_code == 200


def test_create_api_key_prints_json_and_sets_an_expiry(cast: Cast) -> None:
    printed = json.loads(run_command("create_api_key", "alice@example.com", "--days", "3", "--name", "Agent", "--json"))
    key = ApiKey.objects.get()
    assert printed == {"account_id": str(cast.alice.pk), "id": key.pk, "prefix": key.prefix, "key": printed["key"]}
    assert key.expires_at is not None
    assert key.name == "Agent"


def test_create_api_key_creates_the_first_account(db: None) -> None:
    key = run_command("create_api_key", "first@example.com", "--create", "First Label")
    assert with_key(key).get("/api/tasks").status_code == 200
    assert Account.objects.get().name == "First Label"
    run_command("create_api_key", "first@example.com", "--create", "Not again")
    assert Account.objects.count() == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create_api_key", "nobody@example.com"], "No account has the id, the e-mail address or the name"),
        (["create_api_key", "no address", "--create", "X"], "No account"),
        (["create_api_key", "alice@example.com", "--days", "0"], "--days must be 1 or more"),
        (["link_identity", "nobody@example.com", "sub", "--issuer", "i"], "No account"),
        (["link_identity", "alice@example.com", "sub"], "give --issuer"),
        (["link_identity", "alice@example.com", "", "--issuer", "i"], "must not be empty"),
    ],
)
def test_invalid_arguments_are_refused_with_the_reason_and_create_nothing(
    cast: Cast, arguments: list[str], reason: str
) -> None:
    with pytest.raises(CommandError, match=reason):
        run_command(*arguments)
    assert (ApiKey.objects.count(), Identity.objects.count(), Account.objects.count()) == (0, 0, 5)


def run_in_new_process(code: str, **environment: str) -> str:
    """The output of Python code in a new process, because settings and workers are initialized once per process."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout


def test_options_in_the_database_url_are_used() -> None:
    url = "postgres://u:p@db.example.org/recoup?sslmode=require"
    code = "from recoup import settings; print(settings.DATABASES['default']['OPTIONS'])"
    options = run_in_new_process(code, DATABASE_URL=url)
    assert "'sslmode': 'require'" in options
    assert "'pool'" in options


def test_the_first_requests_of_a_worker_may_be_concurrent() -> None:
    code = """
import recoup.wsgi
from concurrent.futures import ThreadPoolExecutor
from django.test import Client
def get_status(_):
    return Client(raise_request_exception=False).get("/api/schema/", headers={"host": "localhost"}).status_code
print(*ThreadPoolExecutor(6).map(get_status, range(12)))
"""
    assert set(run_in_new_process(code).split()) == {"200"}


def test_an_identity_is_linked_to_one_account_only(cast: Cast) -> None:
    arguments = ("link_identity", "alice@example.com", "did:x", "--issuer", "https://i.example", "--json")
    assert json.loads(run_command(*arguments))["made"] is True
    assert json.loads(run_command(*arguments))["made"] is False
    assert Identity.objects.get().account == cast.alice
    with pytest.raises(CommandError, match="is already linked to Alice"):
        run_command("link_identity", "bob@example.com", "did:x", "--issuer", "https://i.example")
