import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from accounts.models import Account
from tasks.models import Task
from tasks.trigger.standin.state import State
from tasks.trigger.standin.wire import Standin
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
    (batch,) = clients["alice"].get(f"/api/tasks/runs?runId={ids['runs']['batch']}").json()["runs"]
    assert len(batch["relatedRuns"]["children"]) == 1


@pytest.mark.usefixtures("db")
def test_demo_data_is_refused_beside_a_real_trigger(settings: Settings) -> None:
    settings.TRIGGER_IS_LOCAL = False
    with pytest.raises(CommandError, match="keys are public"):
        call_command("seed_demo")
    assert Account.objects.count() == 0
