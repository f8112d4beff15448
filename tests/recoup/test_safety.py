"""Unsafe settings are refused, by the commands and by the start, each with what to set."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from django.utils import timezone

from accounts.models import ApiKey
from demo.standin.standin import Standin
from recoup import settings as ours
from recoup.safety import problems
from tasks.gateway.environment import check_environment
from tests.cast import Cast, make_key
from tests.client import with_key
from tests.services import ROOT, free_port

SAFE = {
    "TRIGGER_API_URL": "https://trigger.example.org",
    "TRIGGER_SECRET_KEY": "tr_prod_mine",
    "SECRET_KEY": "s" * 50,
    "API_KEY_SECRET": "k" * 50,
    "ALLOWED_HOSTS": "api.example.org",
    "TOKEN_JWKS_URL": "https://provider.example.org/jwks",
}
LOCAL = {"TRIGGER_API_URL": "http://127.0.0.1:3040"}
UNSAFE: dict[str, tuple[dict[str, str], str, str]] = {
    "remote http": ({"TRIGGER_API_URL": "http://trigger.example.org"}, "E002", "Set TRIGGER_API_URL to https://."),
    "no address": ({"TRIGGER_API_URL": "trigger.example.org"}, "E001", "an address such as https://host"),
    "JWKS by http": ({"TOKEN_JWKS_URL": "http://provider.example.org/jwks"}, "E002", "Set TOKEN_JWKS_URL to https://."),
    "user endpoint by http": ({"TOKEN_USERINFO_URL": "http://provider.example.org"}, "E002", "TOKEN_USERINFO_URL"),
    "no Trigger.dev key": ({"TRIGGER_SECRET_KEY": ""}, "E003", "secret key of your Trigger.dev environment"),
    "the stand-in's key": ({"TRIGGER_SECRET_KEY": "tr_prod_standin"}, "E003", "TRIGGER_SECRET_KEY is not set"),
    "the built-in secret": ({"SECRET_KEY": ours.DEVELOPMENT_SECRET}, "E004", "with Trigger.dev at trigger.example.org"),
    "the built-in secret with a public host": (
        {**LOCAL, "SECRET_KEY": ours.DEVELOPMENT_SECRET, "ALLOWED_HOSTS": "localhost,api.example.org"},
        "E004",
        "and the hosts ['localhost', 'api.example.org']",
    ),
    "the built-in key secret with a public host": (
        {**LOCAL, "API_KEY_SECRET": ours.DEVELOPMENT_SECRET, "ALLOWED_HOSTS": "localhost,api.example.org"},
        "E006",
        "a value of its own",
    ),
    "an empty key secret": ({"API_KEY_SECRET": ""}, "E005", "API_KEY_SECRET can be guessed"),
    "a short secret": ({"SECRET_KEY": "x"}, "E005", "SECRET_KEY can be guessed"),
    "the example": ({"METRICS_TOKEN": "..."}, "E005", "METRICS_TOKEN can be guessed"),
    "the example of a Trigger.dev key": ({"TRIGGER_SECRET_KEY": "tr_prod_..."}, "E003", "TRIGGER_SECRET_KEY"),
    "no key secret": ({"API_KEY_SECRET": ours.DEVELOPMENT_SECRET}, "E006", "a value of its own"),
    "one secret for both": ({"API_KEY_SECRET": "s" * 50}, "E006", "API_KEY_SECRET_FALLBACKS"),
    "every host": ({"ALLOWED_HOSTS": "*"}, "E007", "the host names of this service"),
    "an empty former secret": ({"API_KEY_SECRET_FALLBACKS": ","}, "E008", "API_KEY_SECRET_FALLBACKS"),
    "an unknown algorithm": ({"TOKEN_ALGORITHMS": "ES256,HS256"}, "E009", "TOKEN_ALGORITHMS has HS256"),
    "an issuer alone": ({"TOKEN_ISSUER": "https://provider.example.org"}, "E010", "TOKEN_AUDIENCE"),
    "no PEM": ({"TOKEN_PUBLIC_KEY": "c2VjcmV0"}, "E011", "BEGIN PUBLIC KEY"),
}


def settings_of(environment: dict[str, str]) -> Any:
    """As recoup.settings would have them."""
    values = {name: value for name, value in vars(ours).items() if name.isupper()} | environment
    for name in ("ALLOWED_HOSTS", "TOKEN_ALGORITHMS", "SECRET_KEY_FALLBACKS", "API_KEY_SECRET_FALLBACKS"):
        values[name] = values[name].split(",") if isinstance(values[name], str) else values[name]
    values["IS_DEVELOPMENT"] = (
        values["TRIGGER_API_URL"] == LOCAL["TRIGGER_API_URL"] and "," not in environment["ALLOWED_HOSTS"]
    )
    return SimpleNamespace(**values)


def test_safe_settings_and_those_of_a_new_checkout_have_no_problem() -> None:
    assert problems(settings_of(SAFE)) == []
    assert problems(ours) == []


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_setting_is_named_with_what_to_set(name: str) -> None:
    changes, problem_id, words = UNSAFE[name]
    (problem,) = problems(settings_of({**SAFE, **changes}))
    assert problem.id == f"recoup.{problem_id}"
    assert words in f"{problem.what} {problem.to_do}"


def start(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    values = {**os.environ, **SAFE, "PORT": str(free_port()), **environment}
    return subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSAFE)
def test_check_and_the_start_refuse_an_unsafe_setting(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    changes, problem_id, words = UNSAFE[name]
    checked = start(sys.executable, "manage.py", "check", **changes)
    served = start(sys.executable, "-m", "gunicorn", "recoup.wsgi", **changes)
    worker = start(sys.executable, "manage.py", "run_worker", **changes)
    record_property("unsafe", f"{name}: check: {checked.stderr.strip()!r}; the start: {served.stderr.strip()!r}")
    for ended in (checked, worker):
        assert ended.returncode == 1
        assert f"(recoup.{problem_id})" in ended.stderr
    assert served.returncode != 0
    for ended in (checked, served, worker):
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr


# --- Changing secrets ------------------------------------------------------------------------------------------------


def test_a_key_of_a_former_secret_works_and_gets_the_digest_of_the_present_one(cast: Cast) -> None:
    with override_settings(API_KEY_SECRET="the former one"):
        key = make_key(cast.alice)
    assert with_key(key).get("/api/tasks").status_code == 401
    with override_settings(API_KEY_SECRET_FALLBACKS=["older", "the former one"]):
        assert with_key(key).get("/api/tasks").status_code == 200
    assert ApiKey.objects.get().last_used_at is not None
    assert with_key(key).get("/api/tasks").status_code == 200


# --- Another Trigger.dev ---------------------------------------------------------------------------------------------


def test_check_and_readyz_say_that_a_changed_trigger_key_must_be_accepted(cast: Cast, trigger: Standin) -> None:
    check_environment(at=timezone.now())
    assert not [found for found in run_checks(include_deployment_checks=True) if found.id == "recoup.W001"]
    with override_settings(TRIGGER_SECRET_KEY="tr_prod_other"):
        (found,) = [one for one in run_checks(include_deployment_checks=True) if one.id == "recoup.W001"]
        assert "accept_trigger_environment" in found.msg
