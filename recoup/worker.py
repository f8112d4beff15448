"""gunicorn's threaded worker, without an invalid request in its error page and its log: it may hold a credential."""

from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import ThreadWorker

HIDDEN = "(not shown)"


class Worker(ThreadWorker):
    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, ParseException):
            hide_request(exc)
        super().handle_error(req, client, addr, exc)


def hide_request(error: ParseException) -> None:
    """The attributes of these exceptions are parts of the request, and their messages repeat them."""
    for name, value in vars(error).items():
        if isinstance(value, str | bytes):
            setattr(error, name, HIDDEN if isinstance(value, str) else HIDDEN.encode())
