"""Stands in for systemctl where no systemd runs: starts, restarts and stops what the unit files say, as another user.

It reads ExecStart, WorkingDirectory, EnvironmentFile and Environment, and takes /opt/recoup and /etc/recoup for the
folders of RECOUP_ROOT and RECOUP_ENVIRONMENT. nginx is the one in the folder PROXY_FOLDER.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
ROOT, ENVIRONMENT = Path(os.environ["RECOUP_ROOT"]), Path(os.environ["RECOUP_ENVIRONMENT"])
STOP_WITHIN = 30  # seconds, as in the unit files


def unit(name: str) -> dict[str, list[str]]:
    template, at, instance = name.partition("@")
    text = (UNITS / f"{template}{at}.service").read_text().replace("%i", instance)
    text = text.replace("/opt/recoup", str(ROOT)).replace("/etc/recoup/environment", str(ENVIRONMENT))
    found = dict[str, list[str]]()
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def environment_of(values: dict[str, list[str]]) -> dict[str, str]:
    lines = [line for path in values["EnvironmentFile"] for line in Path(path).read_text().splitlines()]
    pairs = [pair for line in values["Environment"] for pair in line.split()]
    # Later ones win, as they do in systemd.
    pairs += [shlex.split(line)[0] for line in lines if line.strip() and not line.startswith("#")]
    return {"PATH": os.environ["PATH"], **dict(pair.split("=", 1) for pair in pairs)}


def start(name: str) -> None:
    values = unit(name)
    with (ROOT / f"{name}.log").open("a") as log:
        process = subprocess.Popen(  # noqa: S603  what the unit file says
            shlex.split(values["ExecStart"][0]),
            cwd=values["WorkingDirectory"][0],
            env=environment_of(values),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (ROOT / f"{name}.pid").write_text(str(process.pid))


def stop(name: str) -> None:
    path = ROOT / f"{name}.pid"
    if not path.exists():
        return
    pid = int(path.read_text())
    path.unlink()
    for number, seconds in ((signal.SIGTERM, STOP_WITHIN), (signal.SIGKILL, 5)):
        try:
            os.kill(pid, number)
            for _ in range(seconds * 20):
                os.kill(pid, 0)
                if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    return
                time.sleep(0.05)
        except (ProcessLookupError, FileNotFoundError):
            return


def main(action: str, *names: str) -> None:
    name = names[-1]
    if name == "nginx":
        folder = Path(os.environ["PROXY_FOLDER"])
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]
        if (folder / "nginx.pid").exists():
            command += ["-s", {"stop": "quit"}.get(action, "reload")]
        # It stays, and must not keep the pipes of who has asked.
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    elif action in ("enable", "disable"):
        pass  # nothing starts with this machine
    elif action in ("start", "restart", "stop"):
        stop(name)
        if action != "stop":
            start(name)
    else:
        sys.exit(f"systemctl {action} {name} is not known here.")


if __name__ == "__main__":
    main(*sys.argv[1:])
