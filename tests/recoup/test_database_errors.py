"""When the database does not answer: one log line, a time to come back, and nothing of the driver's message."""

import logging
import sys
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client

from core.log_lines import DatabaseErrorsInOneLine
from tests.client import ContractClient


def fail(*arguments: Any) -> None:
    raise OperationalError("connection to 10.0.0.7 failed, password=hunter2")


def test_a_request_gets_a_time_to_try_again(
    db: None, alice_api: ContractClient, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.execute_wrapper(fail):
        response = alice_api.get("/api/tasks")
    assert (response.status_code, response["Retry-After"]) == (500, "2")
    assert response.json()["message"] == "The database did not answer in time. Please try again in 2 seconds."
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "GET /api/tasks failed: the database raised OperationalError"
    ]


def test_a_job_that_fails_leaves_one_line_without_the_drivers_message() -> None:
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "The job %s failed", ("poll",), None)
    try:
        fail()
    except OperationalError:
        record.exc_info = sys.exc_info()
    assert DatabaseErrorsInOneLine().filter(record)
    line = logging.Formatter("%(message)s").format(record)
    assert line == "The job poll failed: the database raised OperationalError"


def test_the_admin_site_too(db: None, admin_client: Client, caplog: pytest.LogCaptureFixture) -> None:
    def fail_for_tasks(execute: Any, sql: str, *arguments: Any) -> Any:
        return fail() if "tasks_task" in sql else execute(sql, *arguments)

    with connection.execute_wrapper(fail_for_tasks):
        response = admin_client.get("/admin/tasks/task/")
    assert (response.status_code, response["Retry-After"]) == (500, "2")
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "hunter2" not in response.content.decode() + caplog.text
