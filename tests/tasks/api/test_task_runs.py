import threading
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import time_machine
from django.db import connection

from demo.standin.faults import Fault
from demo.standin.run_json import STATUSES
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, State
from tasks.gateway import upstream
from tests.cast import Cast, make_key
from tests.client import ContractClient, later, wait_until, with_key
from tests.contract.validation import generated

PATH = "/api/tasks/runs"


@pytest.fixture
def alices_tag(cast: Cast) -> str:
    return f"account:{cast.alice.pk}"


def add_run(trigger: Standin, tag: str, *, age: float = 60, **fields: Any) -> StandinRun:
    return trigger.state.add_run(StandinRun("create-content", trigger.state.now - age, tags=[tag], **fields))


def runs_of(api: ContractClient, query: str = "") -> list[dict[str, Any]]:
    response = api.get(f"{PATH}{query}")
    assert response.status_code == 200, response.content
    runs: list[dict[str, Any]] = response.json()["runs"]
    return runs


# --- The list --------------------------------------------------------------------------------------------------------


def test_an_account_without_runs_has_an_empty_list(alice_api: ContractClient) -> None:
    body = alice_api.get(PATH).json()
    assert (body["status"], body["runs"], body["runs_status"]) == ("success", [], "fresh")


@pytest.mark.parametrize(("query", "count"), [("", 20), ("?limit=1", 1), ("?limit=100", 25), ("?limit=007", 7)])
def test_limit_is_20_unless_given(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, query: str, count: int
) -> None:
    for age in range(25):
        add_run(trigger, alices_tag, age=age)
    assert len(runs_of(alice_api, query)) == count


def test_the_list_reaches_further_back_than_seven_days(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, age=40 * 24 * 3600)
    assert [shown["id"] for shown in runs_of(alice_api)] == [run.id]


def test_a_list_is_one_call(alice_api: ContractClient, trigger: Standin) -> None:
    runs_of(alice_api)
    assert trigger.asked["all"] == 1


def test_a_list_leaves_out_payload_and_output(alice_api: ContractClient, trigger: Standin, alices_tag: str) -> None:
    add_run(trigger, alices_tag, payload={"a": 1}, has_output=True)
    assert not runs_of(alice_api)[0].keys() & {"payload", "output", "error", "attempts", "schedule", "relatedRuns"}


def test_with_trigger_down_the_last_known_list_is_shown_and_called_stale(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    add_run(trigger, alices_tag)
    before = alice_api.get(PATH).json()
    trigger.faults.add(Fault("reset"))
    with later(minutes=1):
        assert alice_api.get(PATH).json() == {**before, "runs_status": "stale"}


@pytest.mark.parametrize("query", ["", "?runId=run_abc"])
@pytest.mark.parametrize("kind", ["status", "hang", "reset", "garbage"])
def test_with_trigger_down_and_nothing_known_it_is_a_500_that_says_when_to_try_again(
    alice_api: ContractClient, trigger: Standin, query: str, kind: Any
) -> None:
    trigger.faults.add(Fault(kind))
    response = alice_api.get(f"{PATH}{query}")
    assert (response.status_code, response["Retry-After"]) == (500, "5")
    assert response.json()["error"].startswith("Trigger.dev cannot be reached at the moment")


@time_machine.travel(datetime(2026, 11, 22, 12, tzinfo=UTC), tick=False)
def test_after_a_429_retry_after_is_when_trigger_takes_questions_again(
    alice_api: ContractClient, trigger: Standin
) -> None:
    trigger.faults.add(Fault("rate_limit", seconds=17))
    response = alice_api.get(PATH)
    assert (response.status_code, response["Retry-After"]) == (500, "17")


# --- One run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", STATUSES)
def test_a_run_in_every_status_is_passed_on(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, stored: str
) -> None:
    run = add_run(trigger, alices_tag, stuck_as=stored)
    (shown,) = runs_of(alice_api, f"?runId={run.id}")
    assert shown["status"] == STATUSES[stored].shown
    assert shown["tags"] == [alices_tag]


@pytest.mark.parametrize("output", [None, "done", 0, False, [], {"a": [1, {"b": None}]}])
def test_output_is_any_json_value(alice_api: ContractClient, trigger: Standin, alices_tag: str, output: object) -> None:
    run = add_run(trigger, alices_tag, has_output=True, output=output, payload={"n": 1})
    (shown,) = runs_of(alice_api, f"?runId={run.id}")
    assert (shown["output"], shown["payload"], shown["attempts"]) == (output, {"n": 1}, [])


def test_every_script_and_half_a_surrogate_pair_are_passed_on(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, metadata={"emoji": "🎧", "lone surrogate": "\ud83d"})
    (shown,) = runs_of(alice_api, f"?runId={run.id}")
    assert shown["metadata"] == {"emoji": "🎧", "lone surrogate": "\ud83d"}


def test_a_run_passes_through_queued_and_executing_while_one_watches(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    ages = {"QUEUED": 1, "EXECUTING": 5, "COMPLETED": 11}
    runs = {status: add_run(trigger, alices_tag, age=age) for status, age in ages.items()}
    for status, run in runs.items():
        assert runs_of(alice_api, f"?runId={run.id}")[0]["status"] == status


@pytest.mark.parametrize("limit", ["limit=0", "limit=", "limit=x", "limit=1&limit=2"])
def test_a_limit_beside_a_run_id_is_ignored_even_a_wrong_one(
    alice_api: ContractClient, trigger: Standin, alices_tag: str, limit: str
) -> None:
    run = add_run(trigger, alices_tag)
    assert len(runs_of(alice_api, f"?runId={run.id}&{limit}")) == 1


@pytest.mark.parametrize(
    "run_id",
    [
        "run_",
        "run-x",
        "RUN_x",
        "run_x/../y",
        "run_x%2F",
        "run_x%00",
        "run_" + "x" * 65,
        "run_é",
        "x" * 10_000,
        "run_x%0A",
    ],
)
def test_what_is_no_run_id_is_a_404_without_a_call(alice_api: ContractClient, trigger: Standin, run_id: str) -> None:
    response = alice_api.get(f"{PATH}?runId={run_id}")
    assert (response.status_code, response.json()) == (404, {"status": "error", "error": "Task run not found"})
    assert trigger.asked["all"] == 0


def test_an_unknown_run_is_asked_for_once_in_five_seconds(alice_api: ContractClient, trigger: Standin) -> None:
    for _ in range(3):
        assert alice_api.get(f"{PATH}?runId=run_unknown").status_code == 404
    assert trigger.asked["all"] == 1, "Trigger.dev's x-should-retry is not obeyed, and the answer is remembered"


def test_a_wrong_trigger_url_is_no_run_that_is_not_found(
    alice_api: ContractClient, trigger: Standin, settings: Any
) -> None:
    settings.TRIGGER_API_URL = "http://trigger.test/some/page"
    assert alice_api.get(f"{PATH}?runId=run_x").status_code == 500


def test_with_trigger_down_the_last_known_run_is_shown_and_called_stale(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag)
    before = alice_api.get(f"{PATH}?runId={run.id}").json()
    assert before["runs_status"] == "fresh"
    trigger.faults.add(Fault("status", status=502))
    with later(hours=3):
        assert alice_api.get(f"{PATH}?runId={run.id}").json() == {**before, "runs_status": "stale"}


def test_with_trigger_down_a_foreign_run_is_still_like_an_unknown_one(
    alice_api: ContractClient, cast: Cast, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag)
    runs_of(alice_api, f"?runId={run.id}")
    trigger.faults.add(Fault("reset"))
    charlie = with_key(make_key(cast.charlie))
    foreign, unknown = (charlie.get(f"{PATH}?runId={run_id}") for run_id in (run.id, "run_unknown"))
    assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_foreign", [True, False])
def test_what_its_owner_asks_meanwhile_makes_a_foreign_run_no_cheaper_than_an_unknown_one(
    alice_api: ContractClient, cast: Cast, trigger: Standin, alices_tag: str, is_foreign: bool
) -> None:
    """As with a lookup in another process, which this one has waited for."""
    generated()  # not in several threads at once, which drf-spectacular does not bear
    run = add_run(trigger, alices_tag)
    charlie, hold = with_key(make_key(cast.charlie)), threading.Event()
    charlies_turn = str(cast.charlie.pk)
    statuses = list[int]()

    def look() -> None:
        statuses.append(charlie.get(PATH, {"runId": run.id if is_foreign else "run_unknown"}).status_code)
        connection.close()

    while not upstream.flights().threads.waiting(charlies_turn):
        upstream.flights().threads.submit(charlies_turn, partial(hold.wait, 10))
    waiting = upstream.flights().threads.waiting(charlies_turn)
    looking = threading.Thread(target=look)
    looking.start()
    wait_until(lambda: upstream.flights().threads.waiting(charlies_turn) > waiting)
    runs_of(alice_api, f"?runId={run.id}")
    hold.set()
    looking.join(10)
    assert (statuses, trigger.asked["all"]) == ([404], 2)


def test_a_deeply_nested_run_is_passed_on(alice_api: ContractClient, trigger: Standin, alices_tag: str) -> None:
    deep: dict[str, Any] = {}
    for _ in range(300):
        deep = {"a": deep}
    run = add_run(trigger, alices_tag, metadata=deep)
    assert runs_of(alice_api, f"?runId={run.id}")[0]["metadata"] == deep
    trigger.faults.add(Fault("reset"))
    with later(hours=3):
        assert runs_of(alice_api, f"?runId={run.id}")[0]["metadata"] == deep


def test_a_run_that_trigger_no_longer_knows_is_not_shown_from_memory(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag)
    runs_of(alice_api, f"?runId={run.id}")
    trigger.state.close()
    trigger.state = State()
    with later(hours=3):
        assert alice_api.get(f"{PATH}?runId={run.id}").status_code == 404


def test_a_presigned_url_is_passed_on_but_not_kept(
    alice_api: ContractClient, trigger: Standin, alices_tag: str
) -> None:
    run = add_run(trigger, alices_tag, presigned_output="https://store.example/x")
    query = f"?runId={run.id}"
    assert runs_of(alice_api, query)[0]["outputPresignedUrl"] == "https://store.example/x"
    trigger.faults.add(Fault("reset"))
    with later(seconds=4):
        assert "outputPresignedUrl" not in runs_of(alice_api, query)[0]
    with later(hours=3):
        assert "outputPresignedUrl" not in runs_of(alice_api, query)[0]


# --- Relatives -------------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(trigger: Standin, cast: Cast, alices_tag: str) -> StandinRun:
    """Alice's run with a child of hers, one of Charlie's and one of nobody."""
    parent = add_run(trigger, alices_tag, id="run_parent")
    relatives: dict[str, Any] = {"parent_id": parent.id, "root_id": parent.id}
    add_run(trigger, alices_tag, id="run_own", **relatives)
    add_run(trigger, f"account:{cast.charlie.pk}", id="run_charlie", **relatives)
    trigger.state.add_run(StandinRun("setup-sandbox", trigger.state.now, "run_nobody", **relatives))
    return parent


def test_a_parent_shows_only_the_children_of_the_caller(alice_api: ContractClient, batch: StandinRun) -> None:
    (shown,) = runs_of(alice_api, f"?runId={batch.id}")
    assert [child["id"] for child in shown["relatedRuns"]["children"]] == ["run_own"]


def test_an_admin_sees_all_relatives_and_with_account_id_that_accounts(
    dora_api: ContractClient, cast: Cast, batch: StandinRun
) -> None:
    (all_of_them,) = runs_of(dora_api, f"?runId={batch.id}")
    assert {child["id"] for child in all_of_them["relatedRuns"]["children"]} == {"run_own", "run_charlie", "run_nobody"}
    (narrowed,) = runs_of(dora_api, f"?runId={batch.id}&account_id={cast.alice.pk}")
    assert [child["id"] for child in narrowed["relatedRuns"]["children"]] == ["run_own"]


def test_a_child_does_not_show_a_foreign_parent(trigger: Standin, cast: Cast, batch: StandinRun) -> None:
    (shown,) = runs_of(with_key(make_key(cast.charlie)), "?runId=run_charlie")
    assert shown["relatedRuns"] == {"children": []}
