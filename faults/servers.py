"""PostgreSQL and Redis of our own, in a folder of their own, to stop, hang and fill; and what is there to run them."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bench.processes import free_port

BINARIES = [Path(found).parent for found in (shutil.which("initdb"),) if found] + sorted(
    Path("/usr/lib/postgresql").glob("*/bin"), reverse=True
)
MAX_CONNECTIONS = 60


class Missing(Exception):
    """A program that this machine does not have. The message names it"""


def wait_until(is_done: Callable[[], bool], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise RuntimeError("A server did not start in time.")
        time.sleep(0.05)


class Postgres:
    """PostgreSQL refuses to run as root, so root starts it as the user `postgres`."""

    def __init__(self, folder: Path) -> None:
        if not BINARIES:
            raise Missing("initdb of PostgreSQL")
        self.folder, self.port, self.binaries = folder, free_port(), BINARIES[0]
        folder.mkdir(parents=True)
        self.user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.user:
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", str(folder / "data"), "-U", "recoup", "-A", "trust", "--no-sync")
        self.start()

    @property
    def url(self) -> str:
        return f"postgres://recoup@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c max_connections={MAX_CONNECTIONS} -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-o", options, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def restart(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "fast", "-w", "stop")
        self.start()

    def suspend(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        """To the server and its processes, which are in sessions of their own."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for process in [pid, *map(int, children)]:
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self.user, str(self.binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/")  # noqa: S603


class Redis:
    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise Missing("redis-server")
        self.folder, self.port, self.program = folder, free_port(), program
        folder.mkdir(parents=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.program, "--port", str(self.port), "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
        wait_until(lambda: self.command("PING") == "PONG")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def suspend(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        command = ["redis-cli", "-p", str(self.port), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


class SmallDisk:
    """A file system of 24 MB, which only root can make."""

    def __init__(self, folder: Path) -> None:
        if os.getuid() != 0:
            raise Missing("root, to mount a small file system")
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
        if subprocess.run(command, check=False, capture_output=True).returncode:  # noqa: S603
            raise Missing("the right to mount a small file system")

    def fill(self) -> None:
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)

    def clear(self) -> None:
        (self.folder / "filler").unlink()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False)  # noqa: S603, S607
