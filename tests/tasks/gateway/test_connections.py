"""What a call to Trigger.dev holds while it lasts."""

import json
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from demo.standin.messages import Request
from demo.standin.standin import Standin
from tasks.gateway import upstream
from tasks.models import Task
from tasks.trigger import errors
from tests.cast import Cast, make_task


def test_no_database_connection_is_held_during_a_call(transactional_db: None, trigger: Standin) -> None:
    """A pool has fewer connections than a worker has threads, and a call may take seconds."""
    held = list[bool]()

    def look(request: Request) -> None:
        held.append(connection.connection is not None)

    trigger.before = look
    assert Task.objects.count() == 0
    assert connection.connection is not None
    with pytest.raises(errors.NotFound):
        upstream.client().retrieve_run("run_x", deadline=upstream.deadline_from_now())
    assert held == [False]


def test_commands_read_all_tasks_though_each_call_gives_the_connection_back(
    transactional_db: None, cast: Cast, trigger: Standin
) -> None:
    for number in range(3):
        make_task(cast.alice, cast.artist, trigger_schedule_id=f"sched_{number}")
    printed = StringIO()
    call_command("sync_runs", "--backfill", "--json", stdout=printed)
    assert json.loads(printed.getvalue())["polled"] == 3
    assert [task.pk for task in Task.objects.all().in_parts(size=2)] == sorted(
        Task.objects.values_list("pk", flat=True)
    )
