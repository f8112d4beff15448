"""Who am I, my organizations, and the artists that I may put on a task."""

from typing import Any
from uuid import uuid4

import pytest

from accounts.models import Account, ArtistLink, Membership, Organization
from tests.cast import Cast, make_account, make_key
from tests.client import ContractClient, with_key

PEOPLE = ("alice", "bob", "charlie", "dora")
# For each caller: may it act for Alice, Bob, Charlie, Dora, an unknown account?
IN_REACH = {
    "alice": (True, True, False, False, False),
    "bob": (True, True, False, False, False),
    "charlie": (False, False, True, False, False),
    "dora": (True, True, True, True, False),
}


@pytest.fixture
def apis(cast: Cast) -> dict[str, ContractClient]:
    return {name: with_key(make_key(cast.person(name))) for name in PEOPLE}


def ids_of(cast: Cast) -> list[Any]:
    return [*(cast.person(name).pk for name in PEOPLE), uuid4()]


@pytest.mark.parametrize("path", ["/api/accounts/id", "/api/accounts/id/"])
def test_a_client_learns_its_account(alice_api: ContractClient, cast: Cast, path: str) -> None:
    assert alice_api.get(path).json() == {"status": "success", "accountId": str(cast.alice.pk)}


@pytest.mark.parametrize("caller", PEOPLE)
def test_only_a_member_of_an_organization_that_grants_admin_is_an_admin(
    apis: dict[str, ContractClient], caller: str
) -> None:
    assert apis[caller].get("/api/admins").json() == {"status": "success", "isAdmin": caller == "dora"}


@pytest.mark.parametrize("caller", PEOPLE)
def test_an_account_is_shown_to_those_who_may_act_for_it(
    apis: dict[str, ContractClient], cast: Cast, caller: str
) -> None:
    statuses = [apis[caller].get(f"/api/accounts/{account_id}").status_code for account_id in ids_of(cast)]
    assert statuses == [200 if in_reach else 404 for in_reach in IN_REACH[caller]]


@pytest.mark.parametrize("path", ["/api/organizations", "/api/artists"])
@pytest.mark.parametrize("caller", PEOPLE)
def test_a_list_of_an_account_out_of_reach_is_a_403(
    apis: dict[str, ContractClient], cast: Cast, caller: str, path: str
) -> None:
    statuses = [apis[caller].get(f"{path}?account_id={account_id}").status_code for account_id in ids_of(cast)]
    allowed = IN_REACH[caller] if caller != "dora" else (True,) * 5  # for an admin an unknown account has an empty list
    assert statuses == [200 if in_reach else 403 for in_reach in allowed]


@pytest.mark.parametrize(
    "path", ["/api/accounts/id", "/api/accounts/{}", "/api/admins", "/api/organizations", "/api/artists", "/api/keys"]
)
def test_every_new_endpoint_needs_a_credential(anonymous_api: ContractClient, cast: Cast, path: str) -> None:
    response = anonymous_api.get(path.format(cast.alice.pk))
    assert response.status_code == 401
    assert response.json()["error"] == response.json()["message"]


def test_the_404_of_a_foreign_an_unknown_and_a_malformed_account_are_the_same(
    alice_api: ContractClient, cast: Cast
) -> None:
    ids = (cast.charlie.pk, uuid4(), "x", "%00")
    assert {alice_api.get(f"/api/accounts/{id}").content for id in ids} == {
        b'{"status":"error","error":"Account not found","message":"Account not found"}'
    }


def test_an_account_has_its_emails_and_organizations(alice_api: ContractClient, cast: Cast) -> None:
    Account.objects.filter(pk=cast.bob.pk).update(image="https://images.example/bob.png")
    account = alice_api.get(f"/api/accounts/{cast.bob.pk}").json()["account"]
    membership = Membership.objects.get(account=cast.bob)
    assert account == {
        "id": str(cast.bob.pk),
        "name": "Bob",
        "image": "https://images.example/bob.png",
        "emails": [{"email": "bob@example.com", "is_primary": True}],
        "organizations": [
            {
                "id": str(membership.pk),
                "organization_id": str(membership.organization_id),
                "organization_name": "Label",
                "organization_image": None,
            }
        ],
    }


def test_organizations_are_the_callers_own(apis: dict[str, ContractClient]) -> None:
    found = {name: apis[name].get("/api/organizations").json()["organizations"] for name in PEOPLE}
    assert {name: [one["organization_name"] for one in organizations] for name, organizations in found.items()} == {
        "alice": ["Label"],
        "bob": ["Label"],
        "charlie": ["Elsewhere"],
        "dora": ["Staff"],
    }


# --- Artists ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def artists(cast: Cast) -> dict[str, Account]:
    """One linked to Alice, one to her organization, one to Charlie, and one to nobody."""
    label = Organization.objects.get(name="Label")
    made = {name: Account.objects.create(name=name) for name in ("Alices", "Labels", "Charlies", "Nobodys")}
    ArtistLink.objects.create(artist_account=made["Alices"], account=cast.alice, pinned=True)
    ArtistLink.objects.create(artist_account=made["Labels"], organization=label)
    ArtistLink.objects.create(artist_account=made["Charlies"], account=cast.charlie)
    return made


def shown(api: ContractClient, query: str = "") -> set[str]:
    response = api.get(f"/api/artists{query}")
    assert response.status_code == 200, response.content
    return {artist["name"] for artist in response.json()["artists"]}


def test_artists_are_those_of_the_account_and_its_organizations(
    apis: dict[str, ContractClient], artists: dict[str, Account]
) -> None:
    assert shown(apis["alice"]) == {"Alice", "Bob", "Alices", "Labels"}
    assert shown(apis["bob"]) == {"Alice", "Bob", "Labels"}
    assert shown(apis["charlie"]) == {"Charlie", "Charlies"}


def test_acting_for_an_account_shows_its_artists_and_lends_it_none(
    apis: dict[str, ContractClient], cast: Cast, artists: dict[str, Account]
) -> None:
    assert shown(apis["bob"], f"?account_id={cast.alice.pk}") == {"Alice", "Bob", "Alices", "Labels"}
    assert shown(apis["dora"], f"?account_id={cast.charlie.pk}") == {"Charlie", "Charlies"}


def test_an_admins_own_list_holds_every_account(apis: dict[str, ContractClient], artists: dict[str, Account]) -> None:
    assert len(shown(apis["dora"])) == Account.objects.count()


@pytest.mark.parametrize("caller", PEOPLE)
def test_the_list_holds_exactly_the_artists_that_a_task_may_have(
    apis: dict[str, ContractClient], cast: Cast, artists: dict[str, Account], caller: str
) -> None:
    body = {"title": "T", "prompt": "P", "schedule": "0 9 * * *"}
    allowed = set()
    for account in Account.objects.all():
        response = apis[caller].post("/api/tasks", {**body, "artist_account_id": str(account.pk)}, format="json")
        assert response.status_code in (200, 403)
        allowed |= {account.name} if response.status_code == 200 else set()
    assert shown(apis[caller]) == allowed


def test_an_artist_can_be_put_on_a_task(alice_api: ContractClient, artists: dict[str, Account]) -> None:
    artist = next(a for a in alice_api.get("/api/artists").json()["artists"] if a["name"] == "Alices")
    assert artist == {
        "id": str(artists["Alices"].pk),
        "account_id": str(artists["Alices"].pk),
        "name": "Alices",
        "image": None,
        "instruction": None,
        "knowledges": [],
        "label": None,
        "pinned": True,
        "account_socials": [],
    }
    body = {"title": "T", "prompt": "P", "schedule": "0 9 * * *", "artist_account_id": artist["account_id"]}
    assert alice_api.post("/api/tasks", body, format="json").status_code == 200


def test_org_id_shows_the_artists_of_one_organization(
    apis: dict[str, ContractClient], artists: dict[str, Account]
) -> None:
    label = Organization.objects.get(name="Label")
    assert shown(apis["alice"], f"?org_id={label.pk}") == {"Alice", "Bob", "Labels"}
    assert shown(apis["dora"], f"?org_id={label.pk}") == {"Alice", "Bob", "Labels"}


def test_artists_of_a_foreign_organization_are_a_403_like_those_of_an_unknown_one(
    apis: dict[str, ContractClient], artists: dict[str, Account]
) -> None:
    label = Organization.objects.get(name="Label")
    answers = [apis["charlie"].get(f"/api/artists?org_id={org_id}") for org_id in (label.pk, uuid4())]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert answers[0].content == answers[1].content


def test_artists_come_page_by_page(dora_api: ContractClient, artists: dict[str, Account]) -> None:
    names, query = list[str](), "?limit=2"
    while query:
        body = dora_api.get(f"/api/artists{query}").json()
        names += [artist["name"] for artist in body["artists"]]
        query = f"?limit=2&cursor={body['next_cursor']}" if body["next_cursor"] else ""
    assert sorted(names) == sorted(Account.objects.values_list("name", flat=True))


def test_a_list_of_artists_costs_a_fixed_number_of_queries(
    alice_api: ContractClient, cast: Cast, artists: dict[str, Account], django_assert_max_num_queries: Any
) -> None:
    """The key, the admin organizations, the artists."""
    for number in range(20):
        make_account(f"Artist {number}", Organization.objects.get(name="Label"))
    shown(alice_api)
    with django_assert_max_num_queries(3):
        assert len(shown(alice_api)) == 24


@pytest.mark.parametrize("query", ["?limit=0", "?cursor=x", "?org_id=x", "?organization_id=1", "?account_id="])
def test_an_invalid_parameter_is_a_400_that_names_it(alice_api: ContractClient, query: str) -> None:
    response = alice_api.get(f"/api/artists{query}")
    assert response.status_code == 400
    assert query[1:].partition("=")[0] in response.json()["error"]
