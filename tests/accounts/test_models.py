"""Database constraints. They hold for every writer, not only for the API."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Identity, Membership, Organization
from tasks.models import SyncStatus, Task
from tests.cast import Cast, make_task


def assert_integrity_error(write: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        write()


def test_only_the_first_email_address_of_an_account_is_primary(cast: Cast) -> None:
    assert AccountEmail.objects.get(account=cast.alice).is_primary
    second = AccountEmail.objects.create(account=cast.alice, email="second@example.com")
    assert not second.is_primary
    assert_integrity_error(lambda: AccountEmail.objects.filter(pk=second.pk).update(is_primary=True))


def test_an_email_address_belongs_to_one_account_in_any_letter_case(cast: Cast) -> None:
    assert_integrity_error(lambda: AccountEmail.objects.create(account=cast.bob, email="ALICE@Example.com"))


def test_a_membership_is_unique(cast: Cast) -> None:
    label = Organization.objects.get(name="Label")
    assert_integrity_error(lambda: Membership.objects.create(account=cast.alice, organization=label))


def test_an_artist_link_has_either_an_account_or_an_organization(cast: Cast) -> None:
    label = Organization.objects.get(name="Label")
    assert_integrity_error(lambda: ArtistLink.objects.create(artist_account=cast.artist))
    assert_integrity_error(
        lambda: ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice, organization=label)
    )
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    assert_integrity_error(lambda: ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice))
    ArtistLink.objects.create(artist_account=cast.artist, organization=label)
    assert_integrity_error(lambda: ArtistLink.objects.create(artist_account=cast.artist, organization=label))


@pytest.mark.parametrize("digest", ["", "x" * 64, "A" * 64, "a" * 63])
def test_an_api_key_digest_is_a_lowercase_hex_sha256(cast: Cast, digest: str) -> None:
    assert_integrity_error(lambda: ApiKey.objects.create(account=cast.alice, name="x", digest=digest))


def test_an_identity_is_unique_and_not_empty(cast: Cast) -> None:
    Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="s")
    assert_integrity_error(lambda: Identity.objects.create(account=cast.bob, issuer="https://i.example", subject="s"))
    assert_integrity_error(lambda: Identity.objects.create(account=cast.bob, issuer="", subject="s"))
    assert_integrity_error(lambda: Identity.objects.create(account=cast.bob, issuer="https://i.example", subject=""))


@pytest.mark.parametrize(
    "fields",
    [
        {"title": ""},
        {"prompt": ""},
        {"schedule": ""},
        {"timezone": ""},
        {"model": ""},
        {"trigger_schedule_id": ""},
        {"synced_generation": 2},
    ],
)
def test_a_task_with_an_empty_field_or_a_future_synced_generation_is_refused(
    cast: Cast, fields: dict[str, Any]
) -> None:
    assert_integrity_error(lambda: make_task(cast.alice, cast.artist, **fields))


def test_a_deleted_task_may_have_no_title_and_no_prompt(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, title="", prompt="", deleted_at=timezone.now())


def test_a_schedule_belongs_to_one_task(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    assert_integrity_error(lambda: make_task(cast.bob, cast.artist, trigger_schedule_id="sched_x"))


@pytest.mark.parametrize("name", ["alice", "artist"])
def test_an_account_with_tasks_cannot_be_deleted(cast: Cast, name: str) -> None:
    make_task(cast.alice, cast.artist)
    with pytest.raises(ProtectedError):
        cast.person(name).delete()
    assert Account.objects.filter(pk=cast.person(name).pk).exists()


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"generation": 3, "synced_generation": 3}, SyncStatus.IN_SYNC),
        ({"generation": 3, "synced_generation": 2}, SyncStatus.PENDING),
        ({"generation": 3, "synced_generation": 3, "unsettled_until": timezone.now()}, SyncStatus.PENDING),
        ({"generation": 3, "synced_generation": 2, "refused_generation": 3}, SyncStatus.REFUSED),
        ({"generation": 4, "synced_generation": 2, "refused_generation": 3}, SyncStatus.PENDING),
    ],
)
def test_sync_status_follows_from_generations_and_the_unsettled_mark(
    fields: dict[str, Any], status: SyncStatus
) -> None:
    assert Task(**fields).sync_status == status
