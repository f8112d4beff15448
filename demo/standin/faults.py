"""How the stand-in fails when it is told to: which requests, how often, and in which way."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Kind = Literal["status", "rate_limit", "delay", "hang", "reset", "garbage", "late"]
KINDS: dict[str, str] = {
    "status": "answer with `status`, and below 500 with `message` as its error",
    "rate_limit": "answer 429, to be reset after `seconds`",
    "delay": "answer after `seconds`",
    "hang": "take the request and answer nothing for `seconds`",
    "reset": "do what was asked, then cut the connection",
    "garbage": "answer 200 with something that is not JSON",
    "late": "answer nothing, and do what was asked only after `seconds`, when the client has gone",
}


@dataclass
class Fault:
    """Applies to requests of `method` whose path matches the shell pattern `path`."""

    kind: Kind
    method: str = "*"
    path: str = "*"
    status: int = 500
    message: str = "The stand-in was told to answer so"
    seconds: float = 10.0
    times: int | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"A fault cannot be {self.kind!r}. It can be: {', '.join(KINDS)}.")


class Faults:
    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311  nothing secret depends on it
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The first fault that this request meets; one with `times` is used up by it."""
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
