"""The memory of a worker: real processes, with the largest list that an account may have."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.services import ROOT

MAX_MEGABYTES = 250
# In a process of its own: the settings of the service, and not those of the tests.
SCRIPT = """
import json, os, sys
from collections.abc import Callable
from pathlib import Path
import django
django.setup()
from django.core.management import call_command
from bench import data, slow_readers
from bench.processes import StandinProcess
call_command("migrate", verbosity=0)
data.create(Path(os.environ["STANDIN_FOLDER"]))
standin = StandinProcess(dict(os.environ))
try:
    print(json.dumps(slow_readers.main({**os.environ, "TRIGGER_API_URL": standin.url})))
finally:
    standin.stop()
"""


@pytest.mark.slow
def test_eight_slow_readers_of_the_largest_list_need_at_most_250_megabytes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "bench.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'memory.sqlite3'}",
        "STANDIN_FOLDER": str(tmp_path / "standin"),
        "LOG_LEVEL": "ERROR",
    }
    command = [sys.executable, "-c", SCRIPT]
    printed = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    list_megabytes, worker_megabytes = json.loads(printed.splitlines()[-1])
    record_property("memory", f"8 slow readers of a list of {list_megabytes:.1f} MB: {worker_megabytes:.0f} MB")
    assert list_megabytes > 5
    assert worker_megabytes <= MAX_MEGABYTES
