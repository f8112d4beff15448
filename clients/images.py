"""Screenshots of the admin site of a demo, into docs/images: `make images`. Needs npm and Chromium.

It also runs axe on the pages of tasks, and ends with 1 where it finds a serious violation.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from accounts.credentials.api_keys import demo_key
from clients.__main__ import CHROMIUM, HERE, demo, run
from clients.answers import Answers
from demo.data import RUN_IDS, id_of

IMAGES = HERE.parent / "docs" / "images"


def main() -> int:
    if CHROMIUM is None or shutil.which("npm") is None:
        raise SystemExit("make images needs npm and Chromium.")
    task, video = id_of("New release radar"), RUN_IDS["finished video"]
    pages = {
        "index": "/admin/",
        "list": "/admin/tasks/task/",
        "task": f"/admin/tasks/task/{task}/change/",
        "task-paused": f"/admin/tasks/task/{id_of('Playlist pitches')}/change/",
        "task-never-ran": f"/admin/tasks/task/{id_of('Festival season plan')}/change/",
        "confirm": f"/admin/tasks/task/{task}/do/pause/",
        "run": f"/admin/tasks/run/{video}/change/",
        "job": "/admin/tasks/bulkjob/1/change/",
        "key": "/admin/accounts/apikey/1/change/",
        "keys": "/admin/accounts/apikey/",
    }
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, demo(Path(name), "") as service:
        folder, url = Path(name), service.url
        for file in ("package.json", "package-lock.json", "images.mjs"):
            shutil.copy(HERE / file, folder)
        run(["npm", "ci", "--silent"], folder=folder)
        # One request of Alice, so that the runs of her tasks are stored.
        run(["curl", "-sf", f"{url}/api/tasks/runs?limit=100", "-H", f"x-api-key: {demo_key('alice')}"])
        is_clean = take(pages, url, folder)
        answers = Answers(service, folder)
        answers.make()
        present = {name: path for name, path in answers.paths.items() if name != "why-away"}
        is_clean = take(present, url, folder) and is_clean
        answers.take_trigger_away()
        away = {name: answers.paths[name] for name in ("why-away", "why-never-scheduled")}
        return 0 if take(away, url, folder) and is_clean else 1


def take(pages: Mapping[str, str], url: str, folder: Path) -> bool:
    """False where axe has found something."""
    environment = {**os.environ, "CHROMIUM": str(CHROMIUM), "PAGES": json.dumps(pages)}
    command = ["node", "images.mjs", url, str(IMAGES)]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
