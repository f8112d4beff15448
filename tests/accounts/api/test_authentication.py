"""Authentication: API keys as X-API-Key or bearer token, the answers to invalid credentials, and preflight requests."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.utils import timezone
from pytest_django import Settings

from accounts.api.authentication import IN_THE_QUERY, NO_SCHEME, NOT_EXACTLY_ONE, NOT_VALID
from accounts.credentials import api_keys
from accounts.models import ApiKey
from tests.cast import Cast, make_key
from tests.client import ContractClient, with_key


def with_headers(**headers: str) -> ContractClient:
    client = ContractClient()
    client.credentials(**headers)
    return client


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_an_api_key_works_as_a_bearer_token_in_any_case(cast: Cast, scheme: str) -> None:
    assert with_headers(HTTP_AUTHORIZATION=f"{scheme} {make_key(cast.alice)}").get("/api/tasks").status_code == 200


@pytest.mark.parametrize("headers", [{}, {"HTTP_X_API_KEY": "", "HTTP_AUTHORIZATION": ""}, {"HTTP_X_API_KEY": "  "}])
def test_a_request_without_credentials_gets_a_401_that_asks_for_one(db: None, headers: dict[str, str]) -> None:
    response = with_headers(**headers).get("/api/tasks")
    assert (response.status_code, response.json()["message"]) == (401, NOT_EXACTLY_ONE)


def test_an_empty_header_counts_as_absent(cast: Cast) -> None:
    client = with_headers(HTTP_X_API_KEY=make_key(cast.alice), HTTP_AUTHORIZATION="")
    assert client.get("/api/tasks").status_code == 200


INVALID_CREDENTIALS = [
    {"HTTP_X_API_KEY": "x"},
    {"HTTP_X_API_KEY": "x" * 100_000},
    {"HTTP_X_API_KEY": "key\nwith a newline"},
    {"HTTP_X_API_KEY": "\x00"},
    {"HTTP_X_API_KEY": "\udcff é 🎧"},
    {"HTTP_AUTHORIZATION": "Bearer"},
    {"HTTP_AUTHORIZATION": "Bearer x.y.z"},
    {"HTTP_AUTHORIZATION": "Basic eDp5"},
    {"HTTP_AUTHORIZATION": "Bearer recoup_sk_" + "x" * 43},
]


@pytest.mark.parametrize("headers", INVALID_CREDENTIALS, ids=str)
def test_every_invalid_credential_gets_the_same_401(db: None, headers: dict[str, str]) -> None:
    response = with_headers(**headers).get("/api/tasks")
    assert (response.status_code, response.json()["message"]) == (401, NOT_VALID)


def test_a_key_without_a_scheme_or_in_the_query_is_told_where_it_belongs(db: None) -> None:
    response = with_headers(HTTP_AUTHORIZATION="recoup_sk_" + "x" * 43).get("/api/tasks")
    assert (response.status_code, response.json()["message"]) == (401, NO_SCHEME)
    for query in ("api_key=x", "X-API-Key=x", "other=recoup_sk_x"):
        response = with_headers().get(f"/api/tasks?{query}")
        assert (response.status_code, response.json()["message"]) == (401, f"{NOT_EXACTLY_ONE}. {IN_THE_QUERY}")


def test_an_api_key_of_another_service_works_after_its_digest_is_imported(cast: Cast, settings: Settings) -> None:
    digest = api_keys.digest("legacy key, any string", secret=settings.API_KEY_SECRET)
    ApiKey.objects.create(account=cast.alice, name="Imported", digest=digest)
    assert with_key("legacy key, any string").get("/api/tasks").status_code == 200


def test_an_api_key_works_before_it_expires(cast: Cast) -> None:
    key = make_key(cast.alice, expires_at=timezone.now() + timedelta(minutes=1))
    assert with_key(key).get("/api/tasks").status_code == 200


def test_last_used_at_of_an_api_key_is_updated_once_per_minute(cast: Cast) -> None:
    client = with_key(make_key(cast.alice))
    client.get("/api/tasks")
    first_use = ApiKey.objects.get().last_used_at
    assert first_use is not None
    client.get("/api/tasks")
    assert ApiKey.objects.get().last_used_at == first_use
    ApiKey.objects.update(last_used_at=first_use - timedelta(seconds=61))
    client.get("/api/tasks")
    assert ApiKey.objects.get().last_used_at > first_use - timedelta(seconds=61)  # type: ignore[operator]


def test_a_failed_update_of_last_used_at_does_not_fail_the_request(cast: Cast) -> None:
    client = with_key(make_key(cast.alice))

    def fail_updates(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("UPDATE"):
            raise DatabaseError("read-only")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(fail_updates):
        assert client.get("/api/tasks").status_code == 200


def test_a_database_outage_is_a_500_and_not_a_401(cast: Cast) -> None:
    client = with_key(make_key(cast.alice))

    def fail_all(*args: Any) -> None:
        raise DatabaseError("password=hunter2")

    with connection.execute_wrapper(fail_all):
        response = client.get("/api/tasks/runs")
    assert response.status_code == 500
    assert "hunter2" not in response.content.decode()


def test_last_used_at_is_updated_after_the_response(cast: Cast) -> None:
    client, statements = with_key(make_key(cast.alice)), []

    def record_statement(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append(sql.split()[0])
        return execute(sql, params, many, context)

    with connection.execute_wrapper(record_statement):
        client.get("/api/tasks")
    assert statements.index("UPDATE") > max(index for index, word in enumerate(statements) if word == "SELECT")


@pytest.mark.django_db(transaction=True)
def test_updating_last_used_at_keeps_no_database_connection(cast: Cast) -> None:
    """A connection that an idle thread keeps would be missing from the pool."""
    client = with_key(make_key(cast.alice))
    client.get("/api/tasks")
    assert ApiKey.objects.get().last_used_at is not None
    ApiKey.objects.update(last_used_at=None)
    client.get("/api/tasks")
    assert connection.connection is None


def test_demo_api_keys_work_with_a_local_trigger_only(cast: Cast, settings: Settings) -> None:
    key = api_keys.demo_key("alice")
    ApiKey.objects.create(account=cast.alice, name="Demo", digest=api_keys.digest(key, secret=settings.API_KEY_SECRET))
    assert with_key(key).get("/api/tasks").status_code == 200
    settings.IS_DEVELOPMENT = False
    assert with_key(key).get("/api/tasks").status_code == 401


def test_a_preflight_needs_no_credential(db: None) -> None:
    origin: dict[str, Any] = {"HTTP_ORIGIN": "https://app.example", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "GET"}
    preflight = ContractClient().options("/api/tasks", **origin, HTTP_ACCESS_CONTROL_REQUEST_HEADERS="x-api-key")
    assert (preflight.status_code, preflight["Access-Control-Allow-Origin"]) == (200, "*")
    assert "x-api-key" in preflight["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in preflight
    assert ContractClient().options("/api/tasks/runs").status_code == 200


def test_new_api_keys_have_the_documented_format_and_are_unique() -> None:
    keys = {api_keys.create() for _ in range(50)}
    assert len(keys) == 50
    assert all(len(key) == 53 and api_keys.is_api_key(key) and not api_keys.is_demo(key) for key in keys)
    assert len(api_keys.demo_key("alice")) == 53


def test_an_api_key_digest_depends_on_the_secret() -> None:
    assert api_keys.digest("key", secret="a") != api_keys.digest("key", secret="b")
    assert len(api_keys.digest("key", secret="a")) == 64
