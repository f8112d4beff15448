"""Every read x caller x whose account it is -> the exact status, and whether Alice's, Bob's or Charlie's things show.

A caller's table says what happens for each account that a request may name. The body's shape is checked by the client.
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

ACCOUNTS = ("alice", "bob", "charlie", "unknown")


@dataclass(frozen=True)
class World:
    """One task and one tagged run for each person, and the clients that ask for them."""

    cast: Cast
    task_ids: dict[str, UUID]
    clients: dict[str, ContractClient]

    def account_id(self, name: str) -> UUID:
        return uuid4() if name == "unknown" else self.cast.person(name).pk


@pytest.fixture
def world(cast: Cast, trigger: Standin) -> World:
    task_ids = {"unknown": uuid4()}
    for name in ("alice", "bob", "charlie"):
        task_ids[name] = make_task(cast.person(name), cast.artist, title=f"{name}'s task").pk
        trigger.state.add_run(
            StandinRun(
                "create-content", trigger.state.now - 60, f"run_{name}", tags=[f"account:{cast.person(name).pk}"]
            )
        )
    now = timezone.now()
    both = with_key(make_key(cast.alice))
    both.credentials(HTTP_X_API_KEY=make_key(cast.alice), HTTP_AUTHORIZATION=f"Bearer {make_key(cast.alice)}")
    clients = {
        "nobody": ContractClient(),
        "both credentials": both,
        "a bad key": with_key("recoup_sk_" + "x" * 43),
        "an expired key": with_key(make_key(cast.alice, expires_at=now - timedelta(seconds=1))),
        "a revoked key": with_key(make_key(cast.alice, revoked_at=now)),
        **{name: with_key(make_key(cast.person(name))) for name in ("alice", "bob", "charlie", "dora")},
    }
    return World(cast, task_ids, clients)


def outcome(response: Any, name: str) -> str:
    """The status, and `shown` when the thing of that person is in the body, `empty` when nothing is."""
    if response.status_code != 200:
        return str(response.status_code)
    body = response.json()
    things = body.get("tasks", body.get("runs"))
    if not things:
        return "empty"
    assert len(things) == 1
    assert name in (things[0].get("title") or things[0]["id"]), "somebody else's thing"
    return "shown"


# For each caller, what it gets for the things of Alice, Bob, Charlie and of nobody.
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
TASK_BY_ID_OF_ITS_ACCOUNT = {
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
RUN_BY_ID_OF_ITS_ACCOUNT = {
    "alice": ("shown", "shown", "403", "403"),
    "bob": ("shown", "shown", "403", "403"),
    "charlie": ("403", "403", "shown", "403"),
    "dora": ("shown", "shown", "shown", "404"),
}
# With `account_id` of Alice, who owns only the first of them.
RUN_BY_ID_OF_ALICE = {
    "alice": ("shown", "404", "404", "404"),
    "bob": ("shown", "404", "404", "404"),
    "charlie": ("403", "403", "403", "403"),
    "dora": ("shown", "404", "404", "404"),
}
REFUSED = ("nobody", "both credentials", "a bad key", "an expired key", "a revoked key")
TABLES = {
    "/api/tasks?account_id={account}": TASKS_OF_ACCOUNT,
    "/api/tasks?id={task}": TASK_BY_ID,
    "/api/tasks?id={task}&account_id={account}": TASK_BY_ID_OF_ITS_ACCOUNT,
    "/api/tasks/runs?account_id={account}": RUNS_OF_ACCOUNT,
    "/api/tasks/runs?runId={run}": RUN_BY_ID,
    "/api/tasks/runs?runId={run}&account_id={account}": RUN_BY_ID_OF_ITS_ACCOUNT,
    "/api/tasks/runs?runId={run}&account_id={alice}": RUN_BY_ID_OF_ALICE,
}


def ask(world: World, caller: str, request: str, name: str) -> Any:
    account, alice = world.account_id(name), world.account_id("alice")
    path = request.format(account=account, task=world.task_ids[name], run=f"run_{name}", alice=alice)
    return world.clients[caller].get(path)


@pytest.mark.parametrize("request_", TABLES)
@pytest.mark.parametrize("caller", ["alice", "bob", "charlie", "dora"])
def test_a_caller_gets_what_the_table_says(world: World, request_: str, caller: str) -> None:
    outcomes = tuple(outcome(ask(world, caller, request_, name), name) for name in ACCOUNTS)
    assert outcomes == TABLES[request_][caller]


@pytest.mark.parametrize("request_", TABLES)
@pytest.mark.parametrize("caller", REFUSED)
def test_without_one_valid_credential_everything_is_a_401(world: World, request_: str, caller: str) -> None:
    for name in ACCOUNTS:
        response = ask(world, caller, request_, name)
        assert (response.status_code, response["WWW-Authenticate"]) == (401, 'Bearer realm="recoup"')


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs"])
@pytest.mark.parametrize("caller", ["alice", "bob", "charlie"])
def test_without_account_id_a_caller_gets_its_own(world: World, path: str, caller: str) -> None:
    assert outcome(world.clients[caller].get(path), caller) == "shown"


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/runs"])
def test_an_admin_too_gets_only_its_own_without_account_id(world: World, path: str) -> None:
    assert outcome(world.clients["dora"].get(path), "dora") == "empty"


@pytest.mark.parametrize("caller", ["alice", "charlie"])
def test_a_403_is_the_same_for_a_foreign_and_for_an_unknown_account(world: World, caller: str) -> None:
    foreign = "charlie" if caller == "alice" else "alice"
    for request_ in ("/api/tasks?account_id={account}", "/api/tasks/runs?account_id={account}"):
        bodies = {ask(world, caller, request_, name).content for name in (foreign, "unknown")}
        assert len(bodies) == 1


def test_a_foreign_run_is_byte_for_byte_an_unknown_one(world: World) -> None:
    foreign, unknown = (ask(world, "alice", "/api/tasks/runs?runId={run}", name) for name in ("charlie", "unknown"))
    malformed = world.clients["alice"].get("/api/tasks/runs?runId=../../v1/schedules")
    assert foreign.content == unknown.content == malformed.content
    assert foreign.headers == unknown.headers == malformed.headers


def test_acting_for_somebody_does_not_lend_what_she_may_do(world: World) -> None:
    """Bob shares an organization with Alice; that she is in another one with Charlie is no way for him to Charlie."""
    band = Organization.objects.create(name="Band")
    for name in ("alice", "charlie"):
        Membership.objects.create(account=world.cast.person(name), organization=band)
    assert ask(world, "alice", "/api/tasks?account_id={account}", "charlie").status_code == 200
    assert ask(world, "bob", "/api/tasks?account_id={account}", "charlie").status_code == 403
