"""Growth of response times from 1,000 to 1,000,000 tasks or runs in the database, with SQLite and PostgreSQL.

Requests run inside one process, without HTTP, so that only the time of the database differs.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

POSTGRES_URL = os.environ.get("POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
SMALL, LARGE = 1_000, int(os.environ.get("BENCH_TASKS", "1000000"))
LARGE_RUNS = int(os.environ.get("BENCH_RUNS", "1000000"))
PER_ACCOUNT = 50


def main(folder: Path, module: str) -> list[tuple[str, ...]]:
    """Measures each database in its own process, since Django is configured with one database.

    `module` fills a test database and prints the medians at two sizes; what it says on standard error is passed on.
    """
    rows: list[tuple[str, ...]] = []
    for name, url in (("SQLite", f"sqlite:///{folder / 'growth.sqlite3'}"), ("PostgreSQL", POSTGRES_URL)):
        completed = subprocess.run(  # noqa: S603  a module of ours
            [sys.executable, "-m", module],
            env={**os.environ, "DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            rows.append((name, completed.stderr.strip().splitlines()[-1], "", "", ""))
            continue
        sys.stderr.write(completed.stderr)
        for line in completed.stdout.splitlines():
            request, small, large = line.split("\t")
            rows.append((name, request, f"{small} ms", f"{large} ms", f"{float(large) / float(small):.2f} x"))
    return rows


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1000
