"""What must hold is held by the database, whatever writes to it."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.utils import timezone

from accounts.models import Account, AccountEmail, ApiKey, ArtistLink, Identity, Membership, Organization
from tasks.models import SyncStatus, Task
from tests.cast import Cast, make_task


def refused(write: Callable[[], object]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        write()


def test_the_first_address_of_an_account_is_primary_and_only_one_is(cast: Cast) -> None:
    assert AccountEmail.objects.get(account=cast.alice).is_primary
    second = AccountEmail.objects.create(account=cast.alice, email="second@example.com")
    assert not second.is_primary
    refused(lambda: AccountEmail.objects.filter(pk=second.pk).update(is_primary=True))


def test_an_address_belongs_to_one_account_whatever_its_case(cast: Cast) -> None:
    refused(lambda: AccountEmail.objects.create(account=cast.bob, email="ALICE@Example.com"))


def test_a_membership_is_there_once(cast: Cast) -> None:
    label = Organization.objects.get(name="Label")
    refused(lambda: Membership.objects.create(account=cast.alice, organization=label))


def test_an_artist_link_is_of_an_account_or_of_an_organization(cast: Cast) -> None:
    label = Organization.objects.get(name="Label")
    refused(lambda: ArtistLink.objects.create(artist_account=cast.artist))
    refused(lambda: ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice, organization=label))
    ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice)
    refused(lambda: ArtistLink.objects.create(artist_account=cast.artist, account=cast.alice))
    ArtistLink.objects.create(artist_account=cast.artist, organization=label)
    refused(lambda: ArtistLink.objects.create(artist_account=cast.artist, organization=label))


@pytest.mark.parametrize("digest", ["", "x" * 64, "A" * 64, "a" * 63])
def test_a_digest_is_hex_sha256(cast: Cast, digest: str) -> None:
    refused(lambda: ApiKey.objects.create(account=cast.alice, name="x", digest=digest))


def test_an_identity_is_there_once_and_not_empty(cast: Cast) -> None:
    Identity.objects.create(account=cast.alice, issuer="https://i.example", subject="s")
    refused(lambda: Identity.objects.create(account=cast.bob, issuer="https://i.example", subject="s"))
    refused(lambda: Identity.objects.create(account=cast.bob, issuer="", subject="s"))
    refused(lambda: Identity.objects.create(account=cast.bob, issuer="https://i.example", subject=""))


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
def test_a_task_has_what_it_needs(cast: Cast, fields: dict[str, Any]) -> None:
    refused(lambda: make_task(cast.alice, cast.artist, **fields))


def test_a_deleted_task_may_be_without_its_text(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, title="", prompt="", deleted_at=timezone.now())


def test_a_schedule_belongs_to_one_task(cast: Cast) -> None:
    make_task(cast.alice, cast.artist, trigger_schedule_id="sched_x")
    refused(lambda: make_task(cast.bob, cast.artist, trigger_schedule_id="sched_x"))


@pytest.mark.parametrize("whose", ["alice", "artist"])
def test_an_account_with_tasks_cannot_be_deleted(cast: Cast, whose: str) -> None:
    make_task(cast.alice, cast.artist)
    with pytest.raises(ProtectedError):
        cast.person(whose).delete()
    assert Account.objects.filter(pk=cast.person(whose).pk).exists()


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
def test_in_sync_means_that_generations_are_equal_and_nothing_is_unsettled(
    fields: dict[str, Any], status: SyncStatus
) -> None:
    assert Task(**fields).sync_status == status
