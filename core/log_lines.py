"""How log records become lines: JSON for machines, or text for people. Of our loggers and of libraries."""

import logging
import sys
from collections.abc import Mapping
from typing import Any

# structlog loads rich for a console that we do not use: four megabytes in every worker.
_rich = sys.modules.get("rich")
# An import of it fails, which structlog expects.
sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _rich is None:
    del sys.modules["rich"]
else:
    sys.modules["rich"] = _rich

from core.connections import DATABASE_ERRORS  # noqa: E402

# What a line of text begins with.
IN_FRONT = ("timestamp", "level", "logger", "event")


class DatabaseErrorsInOneLine(logging.Filter):
    """While the database is away every job fails: a line each, no traceback. A driver's message may hold secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, DATABASE_ERRORS):
            record.msg = f"{record.getMessage()}: the database raised {type(error).__name__}"
            record.args, record.exc_info, record.exc_text = None, None, None
        return True


def as_line(logger: Any, method: str, values: Mapping[str, Any]) -> str:
    """For people: `2026-11-28 12:00:00 INFO recoup.access: request_finished route=GET /api/tasks status=200`."""
    more = "".join(f" {name}={value}" for name, value in values.items() if name not in (*IN_FRONT, "exception"))
    level, name = str(values["level"]).upper(), values["logger"]
    line = f"{values['timestamp']} {level} {name}: {values['event']}{more}"
    return f"{line}\n{values['exception']}" if "exception" in values else line


PROCESSORS: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
RENDERERS: Mapping[str, Any] = {"json": structlog.processors.JSONRenderer(), "text": as_line}


def formatter(style: str) -> logging.Formatter:
    """For the records of every logger, those of libraries too. `style`: `json` or `text`."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=PROCESSORS,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            RENDERERS[style],
        ],
    )


structlog.configure(
    processors=[structlog.stdlib.filter_by_level, *PROCESSORS, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=True,
)
