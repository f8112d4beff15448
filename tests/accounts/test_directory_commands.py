"""The commands that create accounts, organizations, members, artists and staff, and revoke keys."""

import json
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management import CommandError, call_command

from accounts.models import Account, ApiKey, ArtistLink, Event, Membership, Organization
from tests.cast import Cast, make_key
from tests.client import with_key


def run(command: str, *arguments: str) -> Any:
    output = StringIO()
    call_command(command, *arguments, "--json", stdout=output)
    return json.loads(output.getvalue())


def test_a_first_label_from_nothing_to_a_task(db: None) -> None:
    label = run("create_organization", "Northlight")["id"]
    account = run("create_account", "Alice", "--email", "alice@northlight.example")["id"]
    run("add_member", "alice@northlight.example", "Northlight")
    artist = run("add_artist", "Mira Solène", "--organization", label)["artist_account_id"]
    api = with_key(run("create_api_key", account)["key"])
    body = {"title": "T", "prompt": "P", "schedule": "0 9 * * *", "artist_account_id": artist}
    assert api.post("/api/tasks", body, format="json").status_code == 200


COMMANDS = {
    "account": ("create_account", "Eve"),
    "account with e-mails": ("create_account", "Eve", "--email", "eve@example.com", "--email", "e@example.com"),
    "account with id": ("create_account", "Eve", "--id", str(uuid4())),
    "organization": ("create_organization", "Band", "--grants-admin"),
    "member": ("add_member", "Charlie", "Label"),
    "artist": ("add_artist", "New Artist", "--account", "alice@example.com", "--pinned"),
    "link": ("link_artist", "The Artist", "--organization", "Label"),
    "staff": ("create_staff", "sofie", "--superuser"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_run_again_changes_nothing(cast: Cast, name: str) -> None:
    first = run(*COMMANDS[name])
    models = (Account, Organization, Membership, ArtistLink, Event, get_user_model())
    counts = [model.objects.count() for model in models]
    again = run(*COMMANDS[name])
    assert (first["created"], again["created"]) == (True, False)
    assert [model.objects.count() for model in models] == counts
    created = Event.objects.filter(action="created", actor_kind="command", actor_id=COMMANDS[name][0])
    assert created.count() == {"artist": 2, "staff": 0}.get(name, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create_account", ""], "must not be empty"),
        (["create_account", "a\x00b"], "NUL"),
        (["create_account", "x" * 151], "at most 150"),
        (["create_account", "Eve", "--email", "x"], "'x' is not an e-mail address"),
        (["create_account", "Eve", "--id", "x"], "--id must be a UUID, not 'x'"),
        (["create_account", "Twin"], "Several have the name 'Twin'"),
        (["create_account", "Eve", "--id", str(uuid4()), "--email", "alice@example.com"], "has this id or e-mail"),
        (["create_organization", "x" * 151], "at most 150"),
        (["add_member", "nobody", "Label"], "No account has the id, the e-mail address or the name 'nobody'"),
        (["add_member", "Alice", "nowhere"], "No organization has the id or the name 'nowhere'"),
        (["link_artist", "nobody", "--account", "Alice"], "No account"),
        (["link_artist", "The Artist"], "one of the arguments --account --organization is required"),
        (["add_artist", "New", "--account", "nobody"], "No account"),
        (["revoke_api_key", "recoup_sk_unknown"], "No key has this id or prefix"),
        (["revoke_api_key", "9" * 40], "No key has this id or prefix"),
        (["create_staff", "sofie"], "one of the arguments --role --superuser is required"),
        (["create_staff", "sofie", "--role", "king"], "There is no role 'king'"),
        (["create_staff", "sofie", "--superuser", "--email", "x"], "is not an e-mail address"),
    ],
)
def test_what_cannot_be_done_says_why_and_changes_nothing(cast: Cast, arguments: list[str], reason: str) -> None:
    Account.objects.create(name="Twin")
    Account.objects.create(name="Twin")
    with pytest.raises(CommandError, match=reason):
        run(*arguments)
    assert (Account.objects.count(), Organization.objects.count(), Event.objects.count()) == (7, 3, 0)
    assert not get_user_model().objects.exists()


@pytest.mark.parametrize("by", ["id", "prefix", "key"])
def test_a_key_is_revoked_by_its_id_its_prefix_or_itself(cast: Cast, by: str) -> None:
    text = make_key(cast.alice)
    key = ApiKey.objects.get()
    given = {"id": str(key.pk), "prefix": key.prefix, "key": text}[by]
    assert run("revoke_api_key", given)["revoked"]
    assert with_key(text).get("/api/accounts/id").status_code == 401
    assert not run("revoke_api_key", given)["revoked"]
    assert Event.objects.count() == 1


def test_a_prefix_that_several_keys_have_is_refused(cast: Cast) -> None:
    for _ in range(2):
        make_key(cast.alice)
    ApiKey.objects.update(prefix="recoup_sk_same")
    with pytest.raises(CommandError, match="Several keys"):
        run("revoke_api_key", "recoup_sk_same")


def test_new_staff_log_in_with_the_printed_password_and_have_their_role(db: None) -> None:
    Group.objects.get_or_create(name="viewer")
    made = run("create_staff", "sofie", "--role", "viewer", "--email", "sofie@example.com")
    user = get_user_model().objects.get()
    assert user.check_password(made["password"])
    assert (user.is_staff, user.is_superuser, [group.name for group in user.groups.all()]) == (True, False, ["viewer"])


def test_without_json_a_sentence_is_printed(cast: Cast) -> None:
    output = StringIO()
    call_command("add_member", "Charlie", "Label", stdout=output)
    assert output.getvalue() == "Charlie is now in Label.\n"
