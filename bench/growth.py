"""How a request grows with the number of tasks in the database: 1,000 against 1,000,000, SQLite and PostgreSQL.

The work of one request in this process, without HTTP: what differs is the database, and nothing else should show.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

POSTGRES_URL = os.environ.get("POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
SMALL, LARGE = 1_000, int(os.environ.get("BENCH_TASKS", "1000000"))
PER_ACCOUNT = 50


def main(folder: Path) -> list[tuple[str, ...]]:
    """Each database in a process of its own, since Django knows one."""
    rows: list[tuple[str, ...]] = []
    for name, url in (("SQLite", f"sqlite:///{folder / 'growth.sqlite3'}"), ("PostgreSQL", POSTGRES_URL)):
        done = subprocess.run(
            [sys.executable, "-m", "bench.growing"],
            env={**os.environ, "DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            rows.append((name, done.stderr.strip().splitlines()[-1], "", "", ""))
            continue
        for line in done.stdout.splitlines():
            what, small, large = line.split("\t")
            rows.append((name, what, f"{small} ms", f"{large} ms", f"{float(large) / float(small):.2f} x"))
    return rows


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000
