"""API keys by oneself."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import ApiKey, Event
from tests.cast import Cast, make_key
from tests.client import ContractClient, with_key


def create(api: ContractClient, **body: Any) -> Any:
    return api.post("/api/keys", {"key_name": "Report", **body}, format="json")


def test_a_new_key_works_and_is_shown_once(alice_api: ContractClient, cast: Cast) -> None:
    made = create(alice_api)
    assert made["Cache-Control"] == "no-store"
    key = made.json()["key"]
    assert with_key(key).get("/api/accounts/id").json()["accountId"] == str(cast.alice.pk)
    listed = alice_api.get("/api/keys")
    assert key not in listed.content.decode()
    newest = listed.json()["keys"][0]
    assert (newest["id"], newest["name"]) == (made.json()["id"], "Report")


def test_a_deleted_key_no_longer_works(alice_api: ContractClient) -> None:
    made = create(alice_api).json()
    assert alice_api.delete("/api/keys", {"id": made["id"]}, format="json").json() == {"status": "success"}
    assert with_key(made["key"]).get("/api/accounts/id").status_code == 401
    assert len(alice_api.get("/api/keys").json()["keys"]) == 1


def test_the_id_of_a_key_may_be_in_the_query_or_a_number(alice_api: ContractClient) -> None:
    first, second, third = (create(alice_api).json()["id"] for _ in range(3))
    assert alice_api.delete(f"/api/keys?id={first}").status_code == 200
    assert alice_api.delete(f"/api/keys?id={third}", {}, format="json").status_code == 200
    assert alice_api.delete("/api/keys", {"id": int(second)}, format="json").status_code == 200


def test_nobody_sees_or_deletes_the_keys_of_others(
    cast: Cast, alice_api: ContractClient, dora_api: ContractClient
) -> None:
    key_id = alice_api.get("/api/keys").json()["keys"][0]["id"]
    for api in (with_key(make_key(cast.bob)), dora_api):
        assert key_id not in [key["id"] for key in api.get("/api/keys").json()["keys"]]
        foreign = api.delete("/api/keys", {"id": key_id}, format="json")
        unknown = api.delete("/api/keys", {"id": "999999999"}, format="json")
        assert (foreign.status_code, foreign.content) == (404, unknown.content)
    assert alice_api.get("/api/keys").status_code == 200


@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_keys_have_no_account_id(dora_api: ContractClient, cast: Cast, method: str) -> None:
    own_key = dora_api.get("/api/keys").json()["keys"][0]["id"]
    body = {"get": {}, "post": {"key_name": "x"}, "delete": {"id": own_key}}[method]
    if method == "get":
        response = dora_api.get("/api/keys", {"account_id": str(cast.alice.pk)})
    else:
        body = {**body, "account_id": str(cast.alice.pk)}
        response = getattr(dora_api, method)("/api/keys", body, format="json")
    assert response.status_code == 400
    assert "account_id" in response.json()["error"]
    assert ApiKey.objects.filter(account=cast.alice).count() == 0


@pytest.mark.parametrize(("wanted", "expected"), [(None, 1), (timedelta(hours=2), 1), (timedelta(minutes=30), 0.5)])
def test_a_key_made_with_an_expiring_key_expires_no_later(
    cast: Cast, wanted: timedelta | None, expected: float
) -> None:
    now = timezone.now()
    lent = with_key(make_key(cast.alice, expires_at=now + timedelta(hours=1)))
    body = {} if wanted is None else {"expires_at": (now + wanted).isoformat()}
    expires_at = datetime.fromisoformat(create(lent, **body).json()["expires_at"])
    assert abs(expires_at - now - timedelta(hours=expected)) < timedelta(seconds=1)


def test_the_name_may_be_called_name(alice_api: ContractClient) -> None:
    response = alice_api.post("/api/keys", {"name": "Report"}, format="json")
    assert response.json()["name"] == "Report"


@pytest.mark.parametrize(
    "body",
    [
        {"key_name": ""},
        {"key_name": None},
        {"key_name": 5},
        {"key_name": "x" * 201},
        {"key_name": "x\x00"},
        {"name": "Another"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"expires_at": "2030-01-01T00:00:00"},
        {"expires_at": "tomorrow"},
        {"expires_at": 5},
        {"expires_at": {}},
        {"unknown": 1},
    ],
)
def test_an_invalid_body_is_a_400_and_makes_no_key(alice_api: ContractClient, body: Any) -> None:
    response = create(alice_api, **body)
    assert response.status_code == 400
    assert response.json()["error"] == response.json()["message"] != ""
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("body", [{}, {"id": None}, {"id": True}, {"id": "x"}, {"id": [1]}, {"id": "9" * 30}, [], "x"])
def test_an_invalid_id_is_a_400(alice_api: ContractClient, body: Any) -> None:
    assert alice_api.delete("/api/keys", body, format="json").status_code == 400


def test_an_account_has_at_most_a_hundred_keys(alice_api: ContractClient, cast: Cast) -> None:
    keys = [ApiKey(account=cast.alice, name="x", prefix="x", digest=f"{number:064x}") for number in range(99)]
    ApiKey.objects.bulk_create(keys)
    assert "100" in create(alice_api).json()["error"]
    assert Event.objects.count() == 0
