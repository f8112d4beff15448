"""Twenty clients that read and write their own tasks at a steady rate, and check every answer."""

import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any

RATE = 25.0
TIMEOUT = 15.0


@dataclass(frozen=True)
class Answer:
    """`status`: 0 where there was no answer. Times in seconds of `time.monotonic()`."""

    at: float
    seconds: float
    status: int
    wrong: str = ""
    is_unavailable: bool = False

    @property
    def sent_at(self) -> float:
        return self.at - self.seconds

    @property
    def is_failure(self) -> bool:
        return self.status == 0 or self.status >= 500


@dataclass
class Clients:
    port: int
    owners: Sequence[Mapping[str, Any]]
    tls: bool = False  # with a certificate that nobody has signed
    answers: list[Answer] = field(default_factory=list)
    healthz: list[Answer] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Clients":
        self._threads = [threading.Thread(target=self._work, args=(n, owner)) for n, owner in enumerate(self.owners)]
        self._threads.append(threading.Thread(target=self._probe))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT * 2)

    def know_all_runs(self, *, last: int) -> bool:
        """Whether the last answers were right and complete: the service has read every task's runs once."""
        answers = self.answers[-last:]
        return len(answers) == last and not any(one.is_failure or one.is_unavailable for one in answers)

    def _work(self, number: int, owner: Mapping[str, Any]) -> None:
        """Every eighth request is a write; what was answered must be read afterwards."""
        pause, count = len(self.owners) / RATE, 0
        titles: dict[str, set[str]] = {}
        self._stop.wait(pause * number / len(self.owners))
        while not self._stop.wait(pause):
            count += 1
            if count % 8 == 0:
                task = owner["tasks"][count // 8 % len(owner["tasks"])]
                self._write(owner, task, f"Title {count}", titles)
            elif count % 4 == 1:
                self._read_runs(owner)
            else:
                self._read(owner, titles)

    def _read(self, owner: Mapping[str, Any], titles: Mapping[str, set[str]]) -> None:
        answer, body = self._ask(owner, "GET", "/api/tasks")
        wrong, is_unavailable = "", False
        if answer.status == 200:
            shown = {task["id"]: task for task in body["tasks"]}
            if set(shown) != set(owner["tasks"]) or any(t["account_id"] != owner["account"] for t in shown.values()):
                wrong = "other tasks than the account's own"
            for task_id, possible in titles.items():
                if task_id in shown and shown[task_id]["title"] not in possible:
                    wrong = f"the title {shown[task_id]['title']!r} instead of {sorted(possible)}"
            is_unavailable = any(task["runs_status"] == "unavailable" for task in shown.values())
        self._add(answer, body, wrong=wrong, is_unavailable=is_unavailable)

    def _read_runs(self, owner: Mapping[str, Any]) -> None:
        answer, body = self._ask(owner, "GET", "/api/tasks/runs?limit=50")
        foreign = [run for run in body["runs"] if run["task_id"] not in owner["tasks"]] if answer.status == 200 else []
        self._add(answer, body, wrong="a run of another account" if foreign else "")

    def _write(self, owner: Mapping[str, Any], task: str, title: str, titles: dict[str, set[str]]) -> None:
        answer, body = self._ask(owner, "PATCH", "/api/tasks", {"id": task, "title": title})
        wrong = ""
        if answer.status == 200:
            titles[task] = {title}
            if body["tasks"][0]["title"] != title:
                wrong = "a write that is answered with another title"
        elif task in titles:
            titles[task].add(title)  # it may have been stored
        self._add(answer, body, wrong=wrong)

    def _probe(self) -> None:
        while not self._stop.wait(0.5):
            self.healthz.append(self._ask({"key": ""}, "GET", "/healthz")[0])

    def _add(self, answer: Answer, body: Any, *, wrong: str = "", is_unavailable: bool = False) -> None:
        if 300 <= answer.status < 500:
            wrong = f"a {answer.status}"
        self.answers.append(Answer(answer.at, answer.seconds, answer.status, wrong, is_unavailable))

    def _connection(self) -> HTTPConnection:
        if not self.tls:
            return HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return HTTPSConnection("127.0.0.1", self.port, timeout=TIMEOUT, context=context)

    def _ask(self, owner: Mapping[str, Any], method: str, path: str, body: Any = None) -> tuple[Answer, Any]:
        started_at, status, found = time.monotonic(), 0, None
        http = self._connection()
        try:
            headers = {"x-api-key": owner["key"], "Content-Type": "application/json"}
            http.request(method, path, json.dumps(body) if body else None, headers)
            response = http.getresponse()
            found = json.loads(response.read() or b"null")
            status = response.status
        except (OSError, HTTPException, ValueError):
            status = 0
        finally:
            http.close()
        now = time.monotonic()
        return Answer(now, now - started_at, status), found
