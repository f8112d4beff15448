"""What every command does when its output, its database or its person goes away."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.schedules.sync_lock import sync_lock
from tests.services import ROOT, database_url

AWAY = "postgres://nobody:hunter2@127.0.0.1:1/nothing"


def run(*command: str, url: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DATABASE_URL": url}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = (sys.executable, "manage.py", *command)
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, check=False, timeout=60, **streams)


@pytest.mark.django_db(transaction=True)
def test_a_full_disk_and_a_closed_pipe_change_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with Path("/dev/full").open("w") as full, os.fdopen(writing, "w") as closed:
        for stream in (full, closed):
            ended = run("sync_runs", url=database_url(), stdout=stream)
            assert (ended.returncode, ended.stderr) == (0, "")


def test_a_database_that_is_away_is_one_line_and_its_own_status() -> None:
    ended = run("sync_runs", url=AWAY)
    assert (ended.returncode, ended.stdout) == (4, "")
    assert ended.stderr.splitlines()[-1] == "The database does not answer. Is it running, and is DATABASE_URL right?"
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_that_is_not_migrated_is_one_line_and_its_own_status(tmp_path: Path) -> None:
    ended = run("sync_runs", url=f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    assert (ended.returncode, ended.stderr) == (5, "The database is not migrated. Run: manage.py migrate\n")


def take_sigint() -> None:
    """What runs in the background of a shell ignores it, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.django_db(transaction=True)
def test_ctrl_c_is_one_line_and_status_130() -> None:
    command = [sys.executable, "manage.py", "sync_schedules", "--full"]
    environment = {**os.environ, "DATABASE_URL": database_url()}
    with (
        sync_lock(),
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=take_sigint
        ) as process,
    ):
        assert process.stderr is not None
        # It says that it waits for its turn.
        assert "Another sync_schedules is running" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.wait(30)
    assert (process.returncode, rest) == (130, "Stopped.\n")


@pytest.mark.django_db(transaction=True)
def test_a_healthy_pass_is_silent_with_verbosity_0() -> None:
    ended = run("sync_schedules", "-v", "0", url=database_url())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
