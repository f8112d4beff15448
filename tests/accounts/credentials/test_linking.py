"""New users of the token provider: linked to an account by a verified e-mail, where TOKEN_ACCOUNTS allows it."""

import json
import threading
import time
from typing import Any

import pytest
import requests
import responses
from django.db import connection
from pytest_django import Settings

from accounts.credentials import fetching
from accounts.models import Account, AccountEmail, Event, Identity, Membership, Organization
from tests.cast import Cast
from tests.client import ContractClient, later
from tests.provider import SUBJECT, token

USER_URL = "https://provider.example/userinfo"
ALICES = {"email": "Alice@Example.com", "email_verified": True}
NEW = {"email": "new@example.com", "email_verified": True}

pytestmark = pytest.mark.usefixtures("provider")


@pytest.fixture
def link(settings: Settings) -> None:
    settings.TOKEN_ACCOUNTS = "link"


@pytest.fixture
def create(settings: Settings) -> None:
    settings.TOKEN_ACCOUNTS = "create"


def account_of(**claims: Any) -> str | None:
    """The account of a new user with these claims; None for a 401."""
    client = ContractClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token(**claims)}")
    response = client.get("/api/accounts/id")
    assert response.status_code in (200, 401)
    found: str | None = response.json().get("accountId")
    return found


def test_without_the_setting_nobody_is_linked(cast: Cast) -> None:
    assert account_of(**ALICES) is None
    assert not Identity.objects.exists()


@pytest.mark.usefixtures("link")
def test_a_verified_email_links_to_the_account_that_has_it_in_any_case(cast: Cast) -> None:
    assert account_of(**ALICES) == str(cast.alice.pk)
    assert account_of() == str(cast.alice.pk), "the subject is known now, the e-mail is no longer needed"
    event = Event.objects.get()
    assert (event.target_kind, event.account_id, event.actor_kind) == ("identity", cast.alice.pk, "provider")


@pytest.mark.usefixtures("create")
@pytest.mark.parametrize("verified", [False, None, 0, 1, 1.0, "yes", "false", [True]])
def test_an_unverified_email_of_alice_is_a_401(cast: Cast, verified: Any) -> None:
    assert account_of(email="alice@example.com", email_verified=verified) is None
    assert Account.objects.count() == 5


@pytest.mark.usefixtures("create")
def test_a_verified_email_of_an_admin_is_a_401(cast: Cast) -> None:
    assert account_of(email="dora@example.com", email_verified=True) is None
    assert not Identity.objects.exists()


@pytest.mark.usefixtures("create")
def test_an_account_that_became_an_admin_is_linked_to_nobody(cast: Cast) -> None:
    Membership.objects.create(account=cast.alice, organization=Organization.objects.get(grants_admin=True))
    assert account_of(**ALICES) is None


@pytest.mark.usefixtures("create")
def test_an_email_that_several_accounts_could_have_links_to_none(cast: Cast) -> None:
    """The unique index is removed: of a database whose letters compare differently."""
    with connection.cursor() as cursor:
        cursor.execute("DROP INDEX email_once")
    AccountEmail.objects.create(account=cast.bob, email="ALICE@example.com")
    assert account_of(**ALICES) is None


@pytest.mark.usefixtures("create")
@pytest.mark.parametrize("email", ["al\u0131ce@example.com", "alice@exam\u017fle.com", "\u212aate@example.com"])
def test_an_address_whose_letters_only_look_alike_is_a_401(cast: Cast, email: str) -> None:
    """PostgreSQL makes `I` of a dotless i, `S` of a long s, and `k` of a Kelvin sign."""
    for address in ("alice@examsle.com", "kate@example.com"):
        AccountEmail.objects.create(account=cast.alice, email=address)
    assert account_of(email=email, email_verified=True) is None
    assert Account.objects.count() == 5


@pytest.mark.usefixtures("create")
def test_a_long_address_makes_an_account_and_a_long_subject_none(cast: Cast) -> None:
    assert account_of(sub="s" * 501, **NEW) is None
    long = {"email": "a" * 230 + "@example.com", "email_verified": True}
    assert account_of(sub="s" * 500, **long) is not None


@pytest.mark.usefixtures("link")
def test_link_makes_no_account(cast: Cast) -> None:
    assert account_of(**NEW) is None
    assert Account.objects.count() == 5


@pytest.mark.usefixtures("create")
def test_create_makes_an_account_for_a_new_email(cast: Cast) -> None:
    assert account_of(**NEW) is not None
    account = Account.objects.get(emails__email="new@example.com")
    assert (account.name, [email.email for email in account.emails.all()]) == ("new", ["new@example.com"])
    assert sorted(Event.objects.values_list("target_kind", "action")) == [
        ("account", "created"),
        ("identity", "created"),
    ]


@pytest.mark.usefixtures("create")
@pytest.mark.parametrize(
    "email",
    ["", "x", "a@b", "x\x00@example.com", "\ud800@example.com", 5, None, ["a@b.de"], "a" * 300 + "@example.com"],
)
def test_what_is_no_email_makes_no_account(cast: Cast, email: Any) -> None:
    assert account_of(email=email, email_verified=True) is None
    assert Account.objects.count() == 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("create")
def test_two_requests_at_once_with_a_new_subject_make_one_account(transactional_db: None) -> None:
    found: list[str | None] = []
    start = threading.Barrier(4)

    def ask() -> None:
        start.wait()
        found.append(account_of(**NEW))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert found[0] is not None
    assert (Account.objects.count(), Identity.objects.count(), Event.objects.count()) == (1, 1, 2)


# --- The provider's user endpoint ------------------------------------------------------------------------------------


@pytest.fixture
def user_endpoint(provider: responses.RequestsMock, settings: Settings, link: None) -> responses.RequestsMock:
    settings.TOKEN_USERINFO_URL = USER_URL
    return provider


def asked(mock: responses.RequestsMock) -> int:
    return sum(str(call.request.url) == USER_URL for call in mock.calls)


@pytest.mark.parametrize(
    "answer",
    [
        {"sub": SUBJECT, **ALICES},
        {"id": SUBJECT, "email": "alice@example.com", "email_confirmed_at": "2026-01-01T00:00:00Z"},
    ],
    ids=["OpenID", "Supabase"],
)
def test_the_user_endpoint_confirms_an_email_that_the_token_lacks(
    cast: Cast, user_endpoint: responses.RequestsMock, answer: dict[str, Any]
) -> None:
    user_endpoint.get(USER_URL, json=answer)
    assert account_of() == str(cast.alice.pk)
    assert asked(user_endpoint) == 1
    sent = next(call.request for call in user_endpoint.calls if str(call.request.url) == USER_URL)
    assert sent.headers["Authorization"].startswith("Bearer ey")


@pytest.mark.parametrize(
    "answer",
    [
        {"sub": "somebody else", **ALICES},
        {"sub": SUBJECT, "email": "alice@example.com"},
        {"sub": SUBJECT, "email": "alice@example.com", "email_verified": False, "email_confirmed_at": "2026-01-01"},
        {"id": SUBJECT, "email": "alice@example.com", "email_confirmed_at": None},
        ALICES,
        [],
        "x",
        None,
    ],
)
def test_an_answer_that_confirms_nothing_is_a_401(
    cast: Cast, user_endpoint: responses.RequestsMock, answer: Any
) -> None:
    user_endpoint.get(USER_URL, json=answer)
    assert account_of() is None


@pytest.mark.parametrize(
    "fault",
    [
        {"body": requests.ReadTimeout("hangs")},
        {"body": requests.ConnectionError("away")},
        {"status": 500},
        {"status": 302, "headers": {"Location": "https://elsewhere.example/"}},
        {"body": b"[" * 100_000},
    ],
    ids=["hangs", "away", "500", "redirect", "garbage"],
)
def test_an_endpoint_that_fails_is_a_401_and_is_asked_once_a_minute(
    cast: Cast, user_endpoint: responses.RequestsMock, fault: dict[str, Any]
) -> None:
    user_endpoint.get(USER_URL, **fault)
    assert [account_of(), account_of()] == [None, None]
    assert asked(user_endpoint) == 1
    with later(seconds=61):
        assert account_of(exp=4102444800) is None
    assert asked(user_endpoint) == 2


@pytest.mark.django_db(transaction=True)
def test_requests_at_once_of_a_new_user_ask_the_endpoint_once_and_are_all_answered(
    transactional_db: None, provider: responses.RequestsMock, settings: Settings
) -> None:
    settings.TOKEN_ACCOUNTS, settings.TOKEN_USERINFO_URL = "create", USER_URL
    all_wait = threading.Event()

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        all_wait.wait(0.3)
        return 200, {}, json.dumps({"sub": SUBJECT, **NEW})

    provider.add_callback("GET", USER_URL, callback=answer)
    found: list[str | None] = []

    def ask() -> None:
        found.append(account_of())
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len({account for account in found if account}) == 1
    assert None not in found
    assert asked(provider) == 1


def test_an_endpoint_that_sends_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then: no timeout between two of them ends it."""

    class Dripping:
        def read1(self, *args: Any, **kwargs: Any) -> bytes:
            return b" "

    with pytest.raises(ValueError, match="too slow"):
        fetching.read_all(Dripping(), until=time.monotonic())


def test_many_new_subjects_ask_the_endpoint_a_bounded_number_of_times(
    cast: Cast, user_endpoint: responses.RequestsMock, settings: Settings
) -> None:
    settings.AUTH_FAILURES_PER_MINUTE = 1000
    user_endpoint.get(USER_URL, status=404)
    for number in range(70):
        assert account_of(sub=f"user {number}") is None
    assert asked(user_endpoint) == 60
