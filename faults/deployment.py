"""The runbook of docs/operations.md, played on this machine: `make test-deploy`.

Own PostgreSQL and Redis, nginx with deploy/nginx/recoup.conf, an unprivileged user and a read-only checkout. Twenty
clients send 25 requests a second through the proxy while the service is upgraded, rolled back and given new secrets; a
hundred slow connections attack it; a backup is restored. Nothing may fail. Only containers are left out.
"""

import json
import os
import secrets
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.processes import ROOT, StandinProcess, free_port
from faults.clients import Clients
from faults.servers import Missing, Postgres, Redis
from recoup import settings

SECONDS = float(os.environ.get("DEPLOY_SECONDS", "10"))
USER = "nobody"
SLOW_CONNECTIONS = 100
NGINX = """
pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes 2;
events {{ worker_connections 2048; }}
http {{
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  include {folder}/recoup.conf;
}}
"""


@dataclass
class Place:
    """Where the service is installed."""

    folder: Path
    postgres: Postgres
    redis: Redis
    standin: StandinProcess
    owners: list[Mapping[str, Any]] = field(default_factory=list)
    proxy_port: int = field(default_factory=free_port)
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))
    settings: dict[str, str] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)

    @property
    def environment(self) -> dict[str, str]:
        """Of an operator. systemctl is that of faults/systemctl.py."""
        kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "SSL_", "LANG"))}
        return {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "RECOUP_ROOT": str(self.folder / "opt"),
            "RECOUP_ENVIRONMENT": str(self.folder / "environment"),
            "PROXY_FOLDER": str(self.folder),
            "PORTS": f"{self.ports[0]} {self.ports[1]}",
            "DRAIN": "2",
            "PATIENCE": "20",
            "PYTHON": python(),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def release(self, name: str) -> str:
        return str(self.folder / "opt" / "releases" / name)

    def run(self, *command: str, check: bool = True) -> str:
        """As the unprivileged user."""
        done = subprocess.run(  # noqa: S603
            [*as_user(), *command], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def manage(self, *command: str, check: bool = True) -> str:
        script = 'set -a; . "$RECOUP_ENVIRONMENT"; set +a; cd "$0"; exec .venv/bin/python manage.py "$@"'
        return self.run("bash", "-c", script, str(self.folder / "opt" / "worker"), *command, check=check)

    def set(self, **changes: str) -> None:
        self.settings |= changes
        self.secrets |= {value for name, value in changes.items() if "SECRET" in name or name == "METRICS_TOKEN"}
        path = self.folder / "environment"
        path.write_text("".join(f"{name}='{value}'\n" for name, value in self.settings.items()))
        path.chmod(0o644)

    def upgrade(self, name: str) -> str:
        return self.run("bash", f"{self.release(name)}/deploy/upgrade.sh", self.release(name))

    def version(self) -> str:
        """What tells the releases apart."""
        return self.run("curl", "-sk", f"https://127.0.0.1:{self.proxy_port}/llms.txt").splitlines()[-1]

    def clients(self) -> Clients:
        return Clients(self.proxy_port, self.owners, tls=True)


def python() -> str:
    """One that the unprivileged user may run, and that can make an environment."""
    for program in ("/usr/bin/python3", sys.executable):
        command = [*as_user(), program, "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:  # noqa: S603
            return program
    raise Missing("a Python 3.11 with venv that every user may run")


def as_user() -> list[str]:
    return ["setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []


@contextmanager
def place() -> Iterator[Place]:
    for program in ("nginx", "openssl", "curl", "pg_dump", "pg_restore"):
        if shutil.which(program) is None:
            raise Missing(program)
    folder = Path(tempfile.mkdtemp(prefix="recoup-deployment-", dir="/tmp"))  # others must enter it
    folder.chmod(0o755)
    stops = list[Callable[[], object]]()
    try:
        postgres, redis = Postgres(folder / "postgres"), Redis(folder / "redis")
        stops += [postgres.stop, redis.stop]
        standin = StandinProcess({**os.environ, "STANDIN_FOLDER": str(folder / "standin")})
        stops.append(standin.stop)
        found = Place(folder, postgres, redis, standin)
        prepare(found)
        stops.append(lambda: [found.run("systemctl", "stop", name, check=False) for name in (*units(found), "nginx")])
        yield found
    finally:
        for stop in reversed(stops):
            stop()
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)  # noqa: S603, S607
        shutil.rmtree(folder, ignore_errors=True)


def units(found: Place) -> list[str]:
    return ["recoup-worker", *(f"recoup-web@{port}" for port in found.ports)]


def prepare(found: Place) -> None:
    """A checkout that cannot be changed, folders of the user, the settings, the proxy's files and certificate."""
    folder, source = found.folder, found.folder / "source"
    command = [shutil.which("git") or "git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(source)], check=True)  # noqa: S603, S607
    for name in ("bin", "opt", "opt/releases"):
        (folder / name).mkdir()
    systemctl = folder / "bin" / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nexec {python()} {source}/faults/systemctl.py "$@"\n')
    systemctl.chmod(0o755)
    found.set(
        TRIGGER_API_URL=found.standin.url,
        TRIGGER_SECRET_KEY=settings.STANDIN_SECRET_KEY,
        SECRET_KEY=secrets.token_urlsafe(50),
        API_KEY_SECRET=secrets.token_urlsafe(50),
        DATABASE_URL=found.postgres.url,
        REDIS_URL=found.redis.url,
        ALLOWED_HOSTS="127.0.0.1",
        HTTPS_ONLY="true",
        TRUSTED_PROXIES="1",
        METRICS_TOKEN=secrets.token_urlsafe(20),
        LOG_LEVEL="INFO",
    )
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*openssl, *files], check=True, capture_output=True)  # noqa: S603
    server = (ROOT / "deploy" / "nginx" / "recoup.conf").read_text()
    for former, present in {
        "/opt/recoup/upstream.conf": f"{folder}/opt/upstream.conf",
        "/var/log/nginx/recoup.log": f"{folder}/access.log",
        "/etc/ssl/certs/api.example.org.pem": f"{folder}/certificate.pem",
        "/etc/ssl/private/api.example.org.key": f"{folder}/key.pem",
        "api.example.org": "127.0.0.1",
        "listen 443 ssl": f"listen 127.0.0.1:{found.proxy_port} ssl",
        "listen 80": f"listen 127.0.0.1:{free_port()}",
    }.items():
        server = server.replace(former, present)
    (folder / "recoup.conf").write_text(server)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    for path in (folder / "key.pem", folder / "certificate.pem"):
        path.chmod(0o644)
    for path in (folder, folder / "opt", folder / "opt" / "releases"):
        if os.getuid() == 0:
            shutil.chown(path, USER)


def first_start(found: Place) -> None:
    """By the runbook, and the data of the clients."""
    for name in ("1", "2"):
        found.run("bash", str(found.folder / "source" / "deploy" / "install.sh"), found.release(name))
        with (Path(found.release(name)) / "recoup" / "llms.txt").open("a") as text:
            text.write(f"\nRelease {name}\n")
    found.upgrade("1")
    found.manage("create_staff", "operator", "--superuser", "--json")
    environment = {**os.environ, **found.settings, "DJANGO_SETTINGS_MODULE": "recoup.settings"}
    command = [sys.executable, "-m", "faults.data", str(found.folder / "standin")]
    created = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)  # noqa: S603
    found.owners = json.loads(created.stdout)


# --- What is shown ---------------------------------------------------------------------------------------------------


def under_load(found: Place, name: str, act: Callable[[], object]) -> list[str]:
    """What went wrong while `act` ran, with load before and after it."""
    with found.clients() as clients:
        time.sleep(SECONDS / 2)
        began = time.monotonic()
        act()
        took = time.monotonic() - began
        time.sleep(SECONDS / 2)
    failed = [answer for answer in clients.answers if answer.is_failure]
    wrong = [answer.wrong for answer in clients.answers if answer.wrong]
    slowest = max(answer.seconds for answer in clients.answers)
    sys.stdout.write(
        f"{name}: {len(clients.answers)} requests, {len(failed)} failed, {len(wrong)} wrong, slowest {slowest:.1f} s; "
        f"it took {took:.0f} s\n"
    )
    return [f"{name}: {len(failed)} failed and {len(wrong)} wrong: {wrong[:1]}"] if failed or wrong else []


def upgrade(found: Place) -> list[str]:
    problems = list[str]()
    for name in ("2", "1"):
        problems += under_load(found, f"to release {name}", lambda name=name: found.upgrade(name))  # type: ignore[misc]
        if found.version() != f"Release {name}":
            problems.append(f"The proxy shows {found.version()!r} after the change to release {name}.")
    return problems


def unready(found: Place) -> list[str]:
    """A release that does not start changes nothing."""
    shutil.copytree(found.release("2"), found.release("3"), symlinks=True)
    (Path(found.release("3")) / "recoup" / "wsgi.py").write_text("raise RuntimeError('broken')\n")

    def fail() -> None:
        output = found.run("bash", f"{found.release('3')}/deploy/upgrade.sh", found.release("3"), check=False)
        sys.stdout.write(f"  a broken release: {output.strip().splitlines()[-1]}\n")

    problems = under_load(found, "to a broken release", fail)
    return problems + ([] if found.version() == "Release 1" else ["The broken release has replaced the present one."])


def rotate(found: Place) -> list[str]:
    """By the runbook: the new secrets first as fallbacks, then the former ones."""
    former = {name: found.settings[name] for name in ("SECRET_KEY", "API_KEY_SECRET")}
    new = {name: secrets.token_urlsafe(50) for name in former}

    def change() -> None:
        found.set(**{f"{name}_FALLBACKS": value for name, value in new.items()})
        found.upgrade("1")
        found.set(**new, **{f"{name}_FALLBACKS": value for name, value in former.items()})
        found.upgrade("1")

    problems = under_load(found, "both secrets changed", change)
    found.set(SECRET_KEY_FALLBACKS="", API_KEY_SECRET_FALLBACKS="")
    problems += under_load(found, "the former ones removed", lambda: found.upgrade("1"))
    return problems


def attack(found: Place) -> list[str]:
    """Connections that send one line of a header, and others one byte of a body, a second."""
    stop, held = threading.Event(), list[socket.socket]()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for number in range(SLOW_CONNECTIONS):
        one = context.wrap_socket(socket.create_connection(("127.0.0.1", found.proxy_port)))
        head = "POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        one.sendall((head if number % 2 else f"{head}Content-Length: 5000\r\n\r\n").encode())
        held.append(one)

    def send() -> None:
        while not stop.wait(1):
            for number, one in enumerate(held):
                with suppress(OSError):
                    one.sendall(b"X-Slow: 1\r\n" if number % 2 else b"x")

    with found.clients() as before:
        time.sleep(SECONDS)
    slow = threading.Thread(target=send)
    slow.start()
    problems = under_load(found, f"{SLOW_CONNECTIONS} slow connections", lambda: time.sleep(SECONDS))
    with found.clients() as during:
        time.sleep(SECONDS)
    stop.set()
    slow.join()
    for one in held:
        one.close()
    medians = [statistics.median(answer.seconds for answer in clients.answers) for clients in (before, during)]
    sys.stdout.write(
        f"  another client's median: {medians[0] * 1000:.0f} ms before, {medians[1] * 1000:.0f} ms during it "
        f"({medians[1] / medians[0]:.1f} x)\n"
    )
    return problems


def restore(found: Place) -> list[str]:
    """A backup, changes after it, the backup again: a full pass makes Trigger.dev what the restored tasks say."""
    url = found.postgres.url.replace("postgres://", "postgresql://")
    backup = str(found.folder / "opt" / "backup.dump")
    found.run("pg_dump", "--format=custom", "--file", backup, url)
    owner = found.owners[0]
    headers = ["-H", f"x-api-key: {owner['key']}", "-H", "content-type: application/json"]
    api = f"https://127.0.0.1:{found.proxy_port}/api/tasks"
    found.run("curl", "-skf", "-X", "DELETE", *headers, "-d", json.dumps({"id": owner["tasks"][0]}), api)
    found.run(
        "curl", "-skf", "-X", "PATCH", *headers, "-d", json.dumps({"id": owner["tasks"][1], "enabled": False}), api
    )
    task = json.loads(found.run("curl", "-skf", *headers, api))["tasks"][0]
    body = {name: task[name] for name in ("title", "prompt", "account_id", "artist_account_id")}
    found.run("curl", "-skf", *headers, "-d", json.dumps({**body, "schedule": "5 5 * * *"}), api)
    for name in units(found):
        found.run("systemctl", "stop", name)
    # As after an upgrade: a table that the backup does not have.
    psql = ["psql", "--quiet", url, "--command"]
    found.run(*psql, "CREATE TABLE newer (task uuid REFERENCES tasks_task)")
    found.run(*psql, "DROP SCHEMA public CASCADE", "--command", "CREATE SCHEMA public")
    found.run("pg_restore", "--dbname", url, backup)
    found.manage("migrate", "--verbosity", "0")
    planned = found.manage("sync_schedules", "--full", "--prune", "--dry-run", check=False)
    done = found.manage("sync_schedules", "--full", "--prune", "--yes", check=False)
    after = found.manage("sync_schedules", "--full", "--prune", "--dry-run", check=False)
    sys.stdout.write("".join(f"  {line}\n" for text in (planned, done, after) for line in text.splitlines()[-6:]))
    found.upgrade("1")
    return [] if "In sync" in after else ["After the restored backup, Trigger.dev is not what the tasks say."]


def leaks(found: Place) -> list[str]:
    """The logs of all processes, of the proxy too."""
    key = found.owners[0]["key"]
    found.run("curl", "-sk", f"https://127.0.0.1:{found.proxy_port}/api/tasks?api_key={key}")
    words = [*(owner["key"] for owner in found.owners), *found.secrets, "List this week's new releases"]
    logs = [*(found.folder / "opt").glob("*.log"), found.folder / "nginx.log", found.folder / "access.log"]
    text = "".join(path.read_text(errors="replace") for path in logs if path.exists())
    leaked = [word for word in words if word and word in text]
    sys.stdout.write(f"logs: {len(text.splitlines())} lines, {len(leaked)} secrets in them\n")
    return [f"{len(leaked)} secrets are in the logs."] if leaked else []


def main() -> int:
    try:
        with place() as found:
            first_start(found)
            problems = [
                *upgrade(found),
                *unready(found),
                *rotate(found),
                *attack(found),
                *restore(found),
                *leaks(found),
            ]
    except Missing as missing:
        sys.stdout.write(f"The deployment was NOT played: {missing} is missing.\n")
        return 0
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
