"""Staff of the admin site: roles, who may give admin rights, and wrong passwords."""

import importlib
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import ApiKey, Identity, Membership, Organization
from demo.standin.standin import Standin
from tests.cast import Cast, make_key, make_task
from tests.client import later

MEMBERSHIP = "/admin/accounts/membership/add/"
NO_INLINES = {"memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}


@pytest.fixture
def roles(db: None) -> None:
    """As after the migrations: a test that empties the tables removes them."""
    importlib.import_module("tasks.migrations.0009_roles").make_roles(apps, None)
    importlib.import_module("tasks.migrations.0011_bulk_jobs").allow_jobs(apps, None)


def browser_of(role: str | None) -> Client:
    user = get_user_model().objects.create_user(role or "superuser", password="a long password", is_staff=True)
    if role is None:
        user.is_superuser = True
        user.save()
    else:
        user.groups.add(Group.objects.get(name=role))
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.usefixtures("roles")
def test_making_the_roles_leaves_the_applications_with_their_models() -> None:
    """Without them, Django makes no content types after a flush, and later tests keep ids of rows rolled back."""
    assert all(apps.get_app_config(label).models_module for label in ("accounts", "tasks"))


@pytest.mark.usefixtures("roles")
def test_a_viewer_sees_everything_and_changes_nothing(cast: Cast, trigger: Standin) -> None:
    browser, task = browser_of("viewer"), make_task(cast.alice, cast.artist)
    paths = [f"/admin/accounts/{name}/" for name in ("account", "apikey", "identity", "membership", "organization")]
    for path in [*paths, "/admin/tasks/task/", f"/admin/tasks/task/{task.pk}/change/"]:
        page = browser.get(path)
        assert page.status_code == 200
        assert 'name="_save"' not in page.content.decode()
    for path in (
        "/admin/tasks/task/add/",
        f"/admin/tasks/task/{task.pk}/change/",
        f"/admin/tasks/task/{task.pk}/delete/",
    ):
        assert browser.post(path, {"post": "yes"}).status_code == 403
    for action in ("pause", "run_now", "delete_selected", "sync_now"):
        selected = {"action": action, "_selected_action": str(task.pk), "post": "yes"}
        assert browser.post("/admin/tasks/task/", selected).status_code == 403
    for path in (
        f"/admin/tasks/task/{task.pk}/do/pause/",
        "/admin/tasks/bulkjob/add/",
        "/admin/tasks/bulkjob/1/resume/",
    ):
        assert browser.post(path).status_code == 403
    task.refresh_from_db()
    assert (task.is_enabled, task.deleted_at, trigger.asked["all"]) == (True, None, 0)


@pytest.mark.usefixtures("roles")
def test_an_operator_works_with_tasks_and_not_with_access(cast: Cast) -> None:
    browser, task = browser_of("operator"), make_task(cast.alice, cast.artist)
    browser.post("/admin/tasks/task/", {"action": "pause", "_selected_action": str(task.pk)})
    task.refresh_from_db()
    assert not task.is_enabled
    assert browser.post(MEMBERSHIP, {}).status_code == 403
    assert browser.post("/admin/accounts/apikey/add/", {}).status_code == 403


@pytest.mark.usefixtures("roles")
def test_an_access_manager_adds_members_and_keys(cast: Cast) -> None:
    browser, label = browser_of("access manager"), Organization.objects.get(name="Label")
    browser.post(MEMBERSHIP, {"account": cast.charlie.pk, "organization": label.pk})
    browser.post("/admin/accounts/apikey/add/", {"account": cast.alice.pk, "name": "Agent"})
    assert Membership.objects.filter(account=cast.charlie, organization=label).exists()
    assert ApiKey.objects.filter(account=cast.alice).exists()
    assert browser.post("/admin/tasks/task/add/", {}).status_code == 403


# --- What gives admin rights -----------------------------------------------------------------------------------------


def give_membership(browser: Client, cast: Cast) -> bool:
    staff = Organization.objects.get(grants_admin=True)
    browser.post(MEMBERSHIP, {"account": cast.charlie.pk, "organization": staff.pk})
    return Membership.objects.filter(account=cast.charlie, organization=staff).exists()


def give_membership_on_the_page_of_the_organization(browser: Client, cast: Cast) -> bool:
    staff = Organization.objects.get(grants_admin=True)
    data = {
        "name": "Staff",
        "grants_admin": "on",
        "memberships-TOTAL_FORMS": 1,
        "memberships-INITIAL_FORMS": 0,
        "memberships-0-account": cast.charlie.pk,
        "memberships-0-organization": staff.pk,
    }
    browser.post(f"/admin/accounts/organization/{staff.pk}/change/", data)
    return Membership.objects.filter(account=cast.charlie, organization=staff).exists()


def give_membership_on_the_page_of_the_account(browser: Client, cast: Cast) -> bool:
    staff = Organization.objects.get(grants_admin=True)
    data = {
        "name": "Charlie",
        "emails-TOTAL_FORMS": 0,
        "emails-INITIAL_FORMS": 0,
        "memberships-TOTAL_FORMS": 1,
        "memberships-INITIAL_FORMS": 0,
        "memberships-0-account": cast.charlie.pk,
        "memberships-0-organization": staff.pk,
    }
    browser.post(f"/admin/accounts/account/{cast.charlie.pk}/change/", data)
    return Membership.objects.filter(account=cast.charlie, organization=staff).exists()


def move_membership(browser: Client, cast: Cast) -> bool:
    """Dora's membership to another account."""
    membership = Membership.objects.get(account=cast.dora)
    data = {"account": cast.charlie.pk, "organization": membership.organization_id}
    browser.post(f"/admin/accounts/membership/{membership.pk}/change/", data)
    return Membership.objects.get(pk=membership.pk).account_id == cast.charlie.pk


def make_organization_grant_admin(browser: Client, cast: Cast) -> bool:
    label = Organization.objects.get(name="Label")
    data = {"name": "Label", "grants_admin": "on", **NO_INLINES}
    browser.post(f"/admin/accounts/organization/{label.pk}/change/", data)
    label.refresh_from_db()
    return label.grants_admin


def add_organization_that_grants_admin(browser: Client, cast: Cast) -> bool:
    browser.post("/admin/accounts/organization/add/", {"name": "Mine", "grants_admin": "on", **NO_INLINES})
    return Organization.objects.filter(name="Mine", grants_admin=True).exists()


def make_key_of_admin(browser: Client, cast: Cast) -> bool:
    browser.post("/admin/accounts/apikey/add/", {"account": cast.dora.pk, "name": "Agent"})
    return ApiKey.objects.filter(account=cast.dora).exists()


def link_identity_to_admin(browser: Client, cast: Cast) -> bool:
    data = {"account": cast.dora.pk, "issuer": "https://i.example", "subject": "me"}
    browser.post("/admin/accounts/identity/add/", data)
    return Identity.objects.filter(account=cast.dora).exists()


def change_subject_of_admin(browser: Client, cast: Cast) -> bool:
    identity = Identity.objects.create(account=cast.dora, issuer="https://i.example", subject="dora")
    data = {"account": cast.dora.pk, "issuer": "https://i.example", "subject": "me"}
    browser.post(f"/admin/accounts/identity/{identity.pk}/change/", data)
    identity.refresh_from_db()
    return identity.subject == "me"


WAYS = [
    give_membership,
    give_membership_on_the_page_of_the_organization,
    give_membership_on_the_page_of_the_account,
    move_membership,
    make_organization_grant_admin,
    add_organization_that_grants_admin,
    make_key_of_admin,
    link_identity_to_admin,
    change_subject_of_admin,
]


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("role", ["access manager", None], ids=["access manager", "superuser"])
def test_only_a_superuser_gives_admin_rights(cast: Cast, role: str | None, way: Any) -> None:
    assert way(browser_of(role), cast) == (role is None)


@pytest.mark.usefixtures("roles")
def test_only_a_superuser_takes_admin_rights_away(cast: Cast) -> None:
    membership, email = Membership.objects.get(account=cast.dora), cast.dora.emails.get()
    browser = browser_of("access manager")
    for path in (f"membership/{membership.pk}", f"accountemail/{email.pk}"):
        assert browser.post(f"/admin/accounts/{path}/delete/", {"post": "yes"}).status_code == 403
    selected = {"action": "delete_selected", "_selected_action": membership.pk, "post": "yes"}
    assert browser.post("/admin/accounts/membership/", selected).status_code == 403
    data = {"account": cast.charlie.pk, "email": email.email}
    browser.post(f"/admin/accounts/accountemail/{email.pk}/change/", data)
    email.refresh_from_db()
    assert email.account_id == cast.dora.pk
    assert Membership.objects.filter(pk=membership.pk).exists()


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    "lookup", ["digest__startswith=a", "digest=a", "digest__regex=^a", "account__api_keys__digest__startswith=a"]
)
def test_keys_cannot_be_filtered_by_their_digest(cast: Cast, lookup: str) -> None:
    make_key(cast.alice)
    response = browser_of("viewer").get(f"/admin/accounts/apikey/?{lookup}")
    assert response.status_code in (302, 400)


# --- Logging in ------------------------------------------------------------------------------------------------------


def log_in(name: str, password: str, *, address: str = "203.0.113.1") -> int:
    data = {"username": name, "password": password}
    return Client(REMOTE_ADDR=address).post("/admin/login/?next=/admin/", data).status_code


@pytest.fixture
def sofie(db: None) -> None:
    get_user_model().objects.create_superuser("sofie", password="a long password")


@pytest.mark.usefixtures("sofie")
def test_ten_wrong_passwords_for_a_user_from_many_addresses_stop_the_login_for_a_while() -> None:
    statuses = [log_in("sofie", "wrong", address=f"203.0.113.{number}") for number in range(12)]
    assert statuses == [200] * 9 + [429] * 3
    assert log_in("sofie", "a long password", address="198.51.100.1") == 429
    with later(minutes=16):
        assert log_in("sofie", "a long password", address="198.51.100.1") == 302


@pytest.mark.usefixtures("sofie")
def test_ten_wrong_passwords_from_an_address_stop_it_for_every_user_and_others_go_on() -> None:
    statuses = [log_in(f"user {number}", "wrong") for number in range(12)]
    assert statuses == [200] * 9 + [429] * 3
    assert log_in("sofie", "a long password") == 429
    assert log_in("sofie", "a long password", address="198.51.100.1") == 302


@pytest.mark.usefixtures("sofie")
def test_a_right_password_is_not_counted() -> None:
    for _ in range(12):
        assert log_in("sofie", "wrong") == 200
        assert log_in("sofie", "a long password") == 302


# --- Pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/api/docs/", "/api/tasks"])
def test_a_page_runs_no_script_but_our_own(db: None, path: str) -> None:
    policy = Client().get(path)["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "frame-ancestors 'none'" in policy


def test_only_the_admin_site_may_evaluate_expressions(db: None) -> None:
    assert "script-src 'self' 'unsafe-eval'" in Client().get("/admin/login/")["Content-Security-Policy"]


def test_the_docs_page_has_no_script_of_its_own(db: None) -> None:
    page = Client().get("/api/docs/").content.decode()
    assert page.count("<script") == page.count("<script src=")


def test_admin_without_a_slash_leads_to_the_admin_site(db: None) -> None:
    response = Client().get("/admin")
    assert (response.status_code, response["Location"]) == (302, "/admin/")


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    "path",
    [
        "/admin/tasks/task/%00/change/",
        "/admin/tasks/task/x/change/",
        "/admin/tasks/task/?id__exact=x",
        "/admin/tasks/task/?account__id__exact=%00",
        "/admin/tasks/task/?q=%00",
        "/admin/tasks/task/?o=9999999999999999999",
        "/admin/tasks/task/?p=-5",
        "/admin/tasks/task/?p=99999999999999999999999",
        "/admin/tasks/task/?created_at__year=99999",
        "/admin/tasks/task/?created_at__month=x",
        "/admin/tasks/task/?sync=x",
        "/admin/tasks/task/?deleted_at__isempty=9",
        "/admin/accounts/apikey/?created_at__gte=x",
        "/admin/accounts/account/?memberships__organization__id__exact=x",
        "/admin/accounts/membership/99999999999999999999999/change/",
        "/admin/accounts/membership/x/change/",
        "/admin/autocomplete/?term=x",
        "/admin/autocomplete/?term=%00&app_label=tasks&model_name=task&field_name=account",
        "/admin/jsi18n/",
        "/admin/r/1/x/",
        "/admin/%00",
        "/admin/accounts/account/%00/change/",
        "/admin/tasks/run/%00/change/",
        "/admin/tasks/bulkjob/99999999999999999999999/change/",
        "/admin/tasks/task/?account__id__exact=x",
        "/admin/tasks/task/?account__memberships__organization__id__exact=x",
    ],
)
def test_odd_values_in_an_address_are_never_a_500(cast: Cast, path: str) -> None:
    browser = browser_of(None)
    browser.raise_request_exception = False
    assert browser.get(path).status_code < 500
