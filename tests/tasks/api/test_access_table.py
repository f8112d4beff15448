"""Access to the read endpoints: endpoint x caller x owner of the data -> exact status, and whether the data is shown.

Each table has a row per caller and a column per owner. The test client checks each body against the schema.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from accounts.models import Membership, Organization
from demo.standin.standin import Standin
from demo.standin.state import StandinRun
from tests.cast import Cast, make_key, make_task
from tests.client import ContractClient, with_key

OWNERS = ("alice", "bob", "charlie", "unknown")


@dataclass(frozen=True)
class Scenario:
    """One task and one tagged run per owner, and an API client per caller."""

    cast: Cast
    task_ids: dict[str, UUID]
    clients: dict[str, ContractClient]

    def account_id(self, name: str) -> UUID:
        return uuid4() if name == "unknown" else self.cast.person(name).pk


@pytest.fixture
def scenario(cast: Cast, trigger: Standin) -> Scenario:
    task_ids = {"unknown": uuid4()}
    for name in ("alice", "bob", "charlie"):
        task_ids[name] = make_task(cast.person(name), cast.artist, title=f"{name}'s task").pk
        trigger.state.add_run(
            StandinRun(
                "create-content", trigger.state.now - 60, f"run_{name}", tags=[f"account:{cast.person(name).pk}"]
            )
        )
    now = timezone.now()
    two_credentials = with_key(make_key(cast.alice))
    two_credentials.credentials(
        HTTP_X_API_KEY=make_key(cast.alice), HTTP_AUTHORIZATION=f"Bearer {make_key(cast.alice)}"
    )
    clients = {
        "no credential": ContractClient(),
        "two credentials": two_credentials,
        "invalid key": with_key("recoup_sk_" + "x" * 43),
        "expired key": with_key(make_key(cast.alice, expires_at=now - timedelta(seconds=1))),
        "revoked key": with_key(make_key(cast.alice, revoked_at=now)),
        **{name: with_key(make_key(cast.person(name))) for name in ("alice", "bob", "charlie", "dora")},
    }
    return Scenario(cast, task_ids, clients)


def outcome(response: Any, owner: str) -> str:
    """`shown` if the body holds the owner's item, `empty` if it holds none, otherwise the error status."""
    if response.status_code != 200:
        return str(response.status_code)
    body = response.json()
    items = body.get("tasks", body.get("runs"))
    if not items:
        return "empty"
    assert len(items) == 1
    assert owner in (items[0].get("title") or items[0]["id"]), "an item of another account"
    return "shown"


# For each caller: the outcomes for the data of Alice, Bob, Charlie and an unknown account.
TASKS_OF_ACCOUNT = {
    "alice": ("shown", "shown", "403", "403"),
    "bob": ("shown", "shown", "403", "403"),
    "charlie": ("403", "403", "shown", "403"),
    "dora": ("shown", "shown", "shown", "empty"),
}
RUNS_OF_ACCOUNT = TASKS_OF_ACCOUNT
TASK_BY_ID = {
    "alice": ("shown", "empty", "empty", "empty"),
    "bob": ("empty", "shown", "empty", "empty"),
    "charlie": ("empty", "empty", "shown", "empty"),
    "dora": ("shown", "shown", "shown", "empty"),
}
TASK_BY_ID_AND_ITS_ACCOUNT = {
    "alice": ("shown", "shown", "403", "403"),
    "bob": ("shown", "shown", "403", "403"),
    "charlie": ("403", "403", "shown", "403"),
    "dora": ("shown", "shown", "shown", "empty"),
}
RUN_BY_ID = {
    "alice": ("shown", "shown", "404", "404"),
    "bob": ("shown", "shown", "404", "404"),
    "charlie": ("404", "404", "shown", "404"),
    "dora": ("shown", "shown", "shown", "404"),
}
RUN_BY_ID_AND_ITS_ACCOUNT = {
    "alice": ("shown", "shown", "403", "403"),
    "bob": ("shown", "shown", "403", "403"),
    "charlie": ("403", "403", "shown", "403"),
    "dora": ("shown", "shown", "shown", "404"),
}
# With Alice's `account_id`. She owns only the first run.
RUN_BY_ID_AND_ALICES_ACCOUNT = {
    "alice": ("shown", "404", "404", "404"),
    "bob": ("shown", "404", "404", "404"),
    "charlie": ("403", "403", "403", "403"),
    "dora": ("shown", "404", "404", "404"),
}
UNAUTHENTICATED = ("no credential", "two credentials", "invalid key", "expired key", "revoked key")
ACCESS_TABLES = {
    "/api/tasks?account_id={account}": TASKS_OF_ACCOUNT,
    "/api/tasks?id={task}": TASK_BY_ID,
    "/api/tasks?id={task}&account_id={account}": TASK_BY_ID_AND_ITS_ACCOUNT,
    "/api/tasks/runs?account_id={account}": RUNS_OF_ACCOUNT,
    "/api/tasks/runs?runId={run}": RUN_BY_ID,
    "/api/tasks/runs?runId={run}&account_id={account}": RUN_BY_ID_AND_ITS_ACCOUNT,
    "/api/tasks/runs?runId={run}&account_id={alice}": RUN_BY_ID_AND_ALICES_ACCOUNT,
}


def get(scenario: Scenario, caller: str, url: str, owner: str) -> Any:
    account, alice = scenario.account_id(owner), scenario.account_id("alice")
    path = url.format(account=account, task=scenario.task_ids[owner], run=f"run_{owner}", alice=alice)
    return scenario.clients[caller].get(path)


@pytest.mark.parametrize("url", ACCESS_TABLES)
@pytest.mark.parametrize("caller", ["alice", "bob", "charlie", "dora"])
def test_each_caller_gets_the_outcomes_of_the_access_table(scenario: Scenario, url: str, caller: str) -> None:
    outcomes = tuple(outcome(get(scenario, caller, url, owner), owner) for owner in OWNERS)
    assert outcomes == ACCESS_TABLES[url][caller]


@pytest.mark.parametrize("url", ACCESS_TABLES)
@pytest.mark.parametrize("caller", UNAUTHENTICATED)
def test_a_request_without_exactly_one_valid_credential_is_a_401(scenario: Scenario, url: str, caller: str) -> None:
    for owner in OWNERS:
        response = get(scenario, caller, url, owner)
        assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="recoup"')


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs"])
@pytest.mark.parametrize("caller", ["alice", "bob", "charlie"])
def test_without_account_id_a_caller_gets_its_own_data(scenario: Scenario, path: str, caller: str) -> None:
    assert outcome(scenario.clients[caller].get(path), caller) == "shown"


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs"])
def test_without_account_id_an_admin_gets_only_its_own_data(scenario: Scenario, path: str) -> None:
    assert outcome(scenario.clients["dora"].get(path), "dora") == "empty"


@pytest.mark.parametrize("caller", ["alice", "charlie"])
def test_the_403_is_the_same_for_another_account_and_for_an_unknown_account(scenario: Scenario, caller: str) -> None:
    other = "charlie" if caller == "alice" else "alice"
    for url in ("/api/tasks?account_id={account}", "/api/tasks/runs?account_id={account}"):
        bodies = {get(scenario, caller, url, owner).content for owner in (other, "unknown")}
        assert len(bodies) == 1


def test_the_404_is_byte_for_byte_the_same_for_another_accounts_run_and_for_an_unknown_run(scenario: Scenario) -> None:
    charlies, unknown = (
        get(scenario, "alice", "/api/tasks/runs?runId={run}", owner) for owner in ("charlie", "unknown")
    )
    malformed = scenario.clients["alice"].get("/api/tasks/runs?runId=../../v1/schedules")
    assert charlies.content == unknown.content == malformed.content
    for response in (charlies, unknown, malformed):
        del response.headers["X-Request-ID"]
    assert charlies.headers == unknown.headers == malformed.headers


def test_access_through_shared_organizations_is_not_transitive(scenario: Scenario) -> None:
    """Bob shares one organization with Alice, and Alice another with Charlie. Bob has no access to Charlie."""
    band = Organization.objects.create(name="Band")
    for name in ("alice", "charlie"):
        Membership.objects.create(account=scenario.cast.person(name), organization=band)
    assert get(scenario, "alice", "/api/tasks?account_id={account}", "charlie").status_code == 200
    assert get(scenario, "bob", "/api/tasks?account_id={account}", "charlie").status_code == 403
