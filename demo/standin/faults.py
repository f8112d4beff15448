"""Faults of the stand-in for tests: how it fails, for which requests, and how often."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Kind = Literal["status", "rate_limit", "delay", "hang", "reset", "garbage", "late"]
KINDS: dict[str, str] = {
    "status": "answer with `status`; below 500 the error is `message`",
    "rate_limit": "answer 429 with a reset in `seconds`",
    "delay": "answer after `seconds`",
    "hang": "accept the request and send no answer for `seconds`",
    "reset": "execute the request, then reset the connection",
    "garbage": "answer 200 with invalid JSON",
    "late": "send no answer, and execute the request after `seconds`, when the client has timed out",
}


@dataclass
class Fault:
    """Applies to requests of `method` whose path matches the shell pattern `path`."""

    kind: Kind
    method: str = "*"
    path: str = "*"
    status: int = 500
    message: str = "Simulated error of the stand-in"
    seconds: float = 10.0
    times: int | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is not a valid kind of fault. Valid kinds: {', '.join(KINDS)}.")


class Faults:
    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311  not used for secrets
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The first fault that applies to this request. A fault with `times` counts down."""
        for fault in self._faults:
            if not fnmatchcase(method, fault.method) or not fnmatchcase(path, fault.path):
                continue
            if fault.times == 0 or self._random.random() >= fault.probability:
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None

    def as_dicts(self) -> list[Mapping[str, Any]]:
        return [asdict(fault) for fault in self._faults]
