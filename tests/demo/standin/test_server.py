"""The stand-in over real HTTP with the real client: how each fault reaches the client."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from demo.standin.server import StandinServer, serve_in_thread
from demo.standin.standin import Standin
from demo.standin.state import StandinRun, State
from tasks.trigger import errors
from tasks.trigger.client import TriggerClient


@pytest.fixture
def trigger() -> None:
    """Overrides the HTTP mock of the other tests, so that these tests use real HTTP."""


@pytest.fixture
def server() -> Iterator[StandinServer]:
    standin = Standin(State(), {"tr_prod_x": {"id": "env", "name": "prod"}})
    server = serve_in_thread(standin)
    yield server
    server.shutdown()
    server.server_close()
    standin.state.close()


@pytest.fixture
def client(server: StandinServer) -> Iterator[TriggerClient]:
    client = TriggerClient(server.url, "tr_prod_x")
    yield client
    client.close()


def post_control(server: StandinServer, path: str, body: dict[str, Any]) -> requests.Response:
    return requests.post(f"{server.url}/standin/{path}", json=body, timeout=5)


def retrieve(client: TriggerClient, run_id: str, *, within: float = 5.0) -> Any:
    return client.retrieve_run(run_id, deadline=time.monotonic() + within)


def test_a_run_created_over_http_can_be_retrieved(server: StandinServer, client: TriggerClient) -> None:
    run = post_control(server, "runs", {"task": "t", "tags": ["account:x"], "payload": {"é": "🎧"}}).json()
    assert retrieve(client, run["id"])["payload"] == {"é": "🎧"}
    assert client.list_runs(tag="account:x", limit=5, deadline=time.monotonic() + 5).runs[0]["id"] == run["id"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"kind": "status", "status": 500}, errors.Failed),
        ({"kind": "status", "status": 422}, errors.Refused),
        ({"kind": "rate_limit", "seconds": 3}, errors.TooManyRequests),
        ({"kind": "hang", "seconds": 1}, errors.TimedOut),
        ({"kind": "late", "seconds": 1}, errors.TimedOut),
        ({"kind": "reset"}, errors.NotReached),
        ({"kind": "garbage"}, errors.BrokenAnswer),
    ],
)
def test_each_fault_reaches_the_client_as_its_error(
    server: StandinServer, client: TriggerClient, fault: dict[str, Any], kind: type[Exception]
) -> None:
    assert post_control(server, "faults", fault).status_code == 200
    with pytest.raises(kind):
        retrieve(client, "run_x", within=0.4)


def test_a_fault_can_be_limited_to_some_requests(server: StandinServer, client: TriggerClient) -> None:
    server.standin.state.add_run(StandinRun("t", time.time(), "run_x"))
    post_control(server, "faults", {"kind": "status", "path": "/api/v1/*"})
    post_control(server, "faults", {"kind": "garbage", "path": "/api/v3/*", "times": 1})
    with pytest.raises(errors.BrokenAnswer):
        retrieve(client, "run_x")
    assert retrieve(client, "run_x")["id"] == "run_x"
    requests.delete(f"{server.url}/standin/faults", timeout=5)
    assert client.list_runs(tag="x", limit=1, deadline=time.monotonic() + 5).runs == []


def test_the_stand_in_counts_its_requests(server: StandinServer, client: TriggerClient) -> None:
    for run_id in ("run_x", "run_y"):
        with pytest.raises(errors.NotFound):
            retrieve(client, run_id)
    asked = requests.get(f"{server.url}/standin/asked", timeout=5).json()["asked"]
    assert asked == {"all": 2, "GET /api/v3/runs/{id}": 2}


@pytest.mark.parametrize("body", [{"kind": "nonsense"}, {}, {"kind": "hang", "nonsense": 1}])
def test_an_unknown_fault_is_refused_with_the_reason(server: StandinServer, body: dict[str, Any]) -> None:
    response = post_control(server, "faults", body)
    assert (response.status_code, "error" in response.json()) == (400, True)


SLOW_ANSWERS = {
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x"),
    "a status line": (b"", b"H"),
    "a redirect's body": (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 100000\r\n\r\n", b" "),
}


def test_nothing_is_sent_when_connecting_exceeds_the_deadline(
    server: StandinServer, client: TriggerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write must not take effect after its caller has timed out."""
    getaddrinfo = socket.getaddrinfo

    def slow_getaddrinfo(*arguments: Any, **more: Any) -> Any:
        threading.Event().wait(0.2)
        return getaddrinfo(*arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow_getaddrinfo)
    with pytest.raises(errors.TimedOut):
        client.delete_schedule("sched_x", deadline=time.monotonic() + 0.1)
    assert server.standin.asked["all"] == 0


@pytest.mark.parametrize("part", SLOW_ANSWERS)
def test_a_slow_answer_times_out_at_the_deadline(part: str) -> None:
    head, piece = SLOW_ANSWERS[part]
    listener = socket.create_server(("127.0.0.1", 0))

    def send_slowly() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            try:
                connection.sendall(head)
                while not is_over.wait(0.02):
                    connection.sendall(piece)
            except OSError:
                return

    is_over = threading.Event()
    thread = threading.Thread(target=send_slowly)
    thread.start()
    client = TriggerClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "tr_prod_x")
    started = time.monotonic()
    with pytest.raises(errors.TimedOut):
        retrieve(client, "run_x", within=0.3)
    assert time.monotonic() - started < 3
    is_over.set()
    client.close()
    thread.join()
    listener.close()
