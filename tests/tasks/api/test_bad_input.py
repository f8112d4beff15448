"""Bad input never crashes and never calls Trigger.dev. The response is JSON in the published shape."""

from typing import Any

import pytest
from django.test import Client
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from demo.standin.standin import Standin
from tests.client import ContractClient

A_UUID = "3f0e9a52-6d0f-4c5e-9a54-0a2f2d8c7e11"
PARAMETERS = {
    "/api/tasks": ("id", "account_id", "artist_account_id", "enabled"),
    "/api/tasks/runs": ("limit", "account_id"),
}
EVERY_PARAMETER = [(path, name) for path, names in PARAMETERS.items() for name in names]
BODIES = [b"{}", b"[" * 1900, b"\xff\xfe", b"\x00", b"a=b"]
INVALID_VALUES = [
    "",
    "x",
    "x" * 10_000,
    "%00",
    "../../etc/passwd",
    "%ff%fe",
    "1_0",
    "%D9%A1",  # an Arabic digit
    "-1",
    "00",
    "101",
    "1e1",
    "+1",
    "TRUE",
    "null",
    "{" + A_UUID + "}",
    "urn:uuid:" + A_UUID,
    A_UUID.replace("-", ""),
    A_UUID + "%0A",
]


def error_message(response: Any) -> str:
    body = response.json()
    message: str = body["message"] if "message" in body else body["error"]
    return message


@pytest.mark.parametrize("value", INVALID_VALUES, ids=lambda value: value[:20] or "empty")
@pytest.mark.parametrize(("path", "name"), EVERY_PARAMETER)
def test_an_invalid_value_is_a_400_that_names_the_parameter(
    alice_api: ContractClient, trigger: Standin, path: str, name: str, value: str
) -> None:
    response = alice_api.get(f"{path}?{name}={value}")
    assert response.status_code == 400
    assert error_message(response).startswith(name)
    assert len(error_message(response)) < 300
    assert trigger.asked["all"] == 0


@pytest.mark.parametrize(("path", "name"), [*EVERY_PARAMETER, ("/api/tasks/runs", "runId")])
def test_a_repeated_or_empty_parameter_is_a_400_that_names_it(alice_api: ContractClient, path: str, name: str) -> None:
    for query in (f"{name}={A_UUID}&{name}={A_UUID}", f"{name}="):
        response = alice_api.get(f"{path}?{query}")
        assert response.status_code == 400
        assert error_message(response).startswith(name)


@pytest.mark.parametrize("path", PARAMETERS)
@pytest.mark.parametrize("name", ["statuses", "ID", "filter[tag]", "page[size]", "x" * 10_000, "%00", "%ff"])
def test_an_unknown_parameter_is_a_400_that_lists_the_allowed_parameters(
    alice_api: ContractClient, trigger: Standin, path: str, name: str
) -> None:
    response = alice_api.get(f"{path}?{name}=1")
    assert response.status_code == 400
    assert "account_id" in error_message(response)
    assert trigger.asked["all"] == 0


@pytest.mark.parametrize("path", PARAMETERS)
def test_too_many_parameters_are_a_400(alice_api: ContractClient, path: str) -> None:
    assert alice_api.get(path + "?" + "&".join(f"_{n}=1" for n in range(1500))).status_code == 400


@pytest.mark.parametrize("path", PARAMETERS)
@pytest.mark.parametrize("body", BODIES)
def test_get_ignores_the_body(alice_api: ContractClient, path: str, body: Any) -> None:
    assert alice_api.generic("GET", path, body, content_type="application/json").status_code == 200


@pytest.mark.parametrize("path", PARAMETERS)
@pytest.mark.parametrize("method", ["PUT", "TRACE", "BREW"])
@pytest.mark.parametrize("body", BODIES)
def test_an_unsupported_method_is_a_405_with_an_allow_header(
    alice_api: ContractClient, path: str, method: str, body: Any
) -> None:
    response = alice_api.generic(method, path, body, content_type="application/json")
    assert response.status_code == 405
    assert "GET, " in response["Allow"]


@pytest.mark.parametrize("path", PARAMETERS)
def test_authentication_is_checked_before_method_and_parameters(anonymous_api: ContractClient, path: str) -> None:
    for method, query in (("BREW", ""), ("GET", "?id=x"), ("GET", f"?account_id={A_UUID}")):
        assert anonymous_api.generic(method, path + query).status_code == 401


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/", "/api/nope", "/api/tasks/runs/x", "/api/tasks//", "/%00", "/%ff", "/.env"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_an_unknown_path_is_a_json_404(db: None, path: str, method: str) -> None:
    response = Client().generic(method, path, b"[" * 1900, content_type="application/json")
    assert (response.status_code, response["Content-Type"]) == (404, "application/json")
    assert set(response.json()) == {"status", "error", "message"}


@pytest.mark.parametrize("path", [*PARAMETERS, "/api/nope"])
@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/xml;q=1", "x", ""])
def test_the_response_is_json_for_any_accept_header(alice_api: ContractClient, path: str, accept: str) -> None:
    assert alice_api.get(path, HTTP_ACCEPT=accept)["Content-Type"] == "application/json"


def test_the_format_parameter_is_unknown(alice_api: ContractClient) -> None:
    assert alice_api.get("/api/tasks?format=html").status_code == 400


@pytest.mark.parametrize(
    ("path", "keys"), [("/api/tasks", {"status", "error", "message"}), ("/api/tasks/runs", {"status", "error"})]
)
def test_an_invalid_host_is_a_400_in_the_error_shape_of_the_path(db: None, path: str, keys: set[str]) -> None:
    response = Client().get(path, HTTP_HOST="evil.example")
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    assert set(response.json()) == keys


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=4), path=st.sampled_from([*PARAMETERS])
)
def test_no_random_query_causes_a_server_error(
    alice_api: ContractClient, trigger: Standin, query: dict[str, str], path: str
) -> None:
    response = alice_api.get(path, query)
    assert response.status_code in (200, 400, 403, 404)
