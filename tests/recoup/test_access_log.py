"""The access log: one line for each request, with what operators need, and nothing that a caller has sent in secret."""

import json
import logging
from typing import Any

import pytest
from django.test import Client

from core.log_lines import formatter
from tests.cast import Cast, make_key
from tests.client import ContractClient


class Lines(logging.Handler):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.setFormatter(formatter(style))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines(request: Any) -> Any:
    """Of all loggers, as they are written."""
    handler = Lines(getattr(request, "param", "json"))
    for name in ("", "django"):
        logging.getLogger(name).addHandler(handler)
    yield handler.lines
    for name in ("", "django"):
        logging.getLogger(name).removeHandler(handler)


def test_a_request_is_one_line_with_its_account_route_status_and_duration(
    lines: list[str], cast: Cast, alice_api: ContractClient
) -> None:
    response = alice_api.get("/api/tasks?limit=5", headers={"x-request-id": "chosen by the caller"})
    (line,) = [json.loads(line) for line in lines]
    assert line["milliseconds"] > 0
    assert len(line["request_id"]) == 36
    assert response.headers["X-Request-ID"] == line["request_id"]
    expected = {"event": "request_finished", "route": "GET /api/tasks", "status": 200, "account": str(cast.alice.pk)}
    assert {name: line[name] for name in expected} == expected


def test_the_request_id_of_a_trusted_proxy_is_kept(lines: list[str], alice_api: ContractClient, settings: Any) -> None:
    settings.DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = True
    response = alice_api.get("/api/tasks", headers={"x-request-id": "f00"})
    assert response.headers["X-Request-ID"] == json.loads(lines[0])["request_id"] == "f00"


def test_a_key_in_the_query_and_an_invented_address_are_not_in_the_log(lines: list[str], cast: Cast) -> None:
    key = make_key(cast.alice)
    for path in (f"/api/tasks?api_key={key}", f"/secret/{key}", f"/api/tasks?account_id={key}"):
        Client().get(path)
    assert [json.loads(line)["status"] for line in lines] == [401, 404, 401]
    assert key not in "".join(lines)
    assert json.loads(lines[1])["route"] == "GET /unknown"


def test_a_wrong_host_is_one_line(lines: list[str], db: None) -> None:
    assert Client(HTTP_HOST="evil.example").get("/api/tasks").status_code == 400
    assert [json.loads(line)["status"] for line in lines] == [400]


@pytest.mark.parametrize("lines", ["text"], indirect=True)
def test_lines_of_text_are_for_people(lines: list[str], alice_api: ContractClient) -> None:
    alice_api.get("/api/tasks")
    logging.getLogger("tasks").warning("Something %s", "odd")
    assert " INFO " in lines[0]
    assert "request_finished status=200 route=GET /api/tasks milliseconds=" in lines[0]
    assert lines[1].endswith(" WARNING tasks: Something odd")


def test_probes_are_not_in_the_log(lines: list[str], db: None) -> None:
    Client().get("/healthz")
    assert lines == []
