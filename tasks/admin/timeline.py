"""The timeline of a task as inline SVG: runs, missed runs, changes and failed syncs of the last thirty days. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape

from accounts.models import Event
from tasks.models import MissedRun, Run, SyncFailure
from tasks.runs.copies import FAILED

DAYS = 30
WIDTH, HEIGHT, LEFT = 900, 170, 70
ROWS = {"Runs": 24, "Missed": 58, "Changes": 92, "Sync": 126}
GREEN, RED, AMBER, BLUE, GREY = "#15803d", "#dc2626", "#d97706", "#2563eb", "#6b7280"


@dataclass(frozen=True)
class Mark:
    at: datetime
    row: str
    colour: str
    text: str
    shape: str = "circle"


def marks_of(
    runs: Iterable[Run], missed: Iterable[MissedRun], events: Iterable[Event], failures: Iterable[SyncFailure]
) -> list[Mark]:
    found = [Mark(run.created_at, "Runs", colour_of(run.status), f"Run {run.status}") for run in runs]
    found += [Mark(one.expected_at, "Missed", RED, "No run came", "cross") for one in missed]
    found += [Mark(event.at, "Changes", BLUE, change_of(event), "square") for event in events]
    found += [Mark(one.at, "Sync", AMBER, f"Not at Trigger.dev: {one.reason}", "cross") for one in failures]
    return sorted(found, key=lambda mark: mark.at)


def colour_of(status: str) -> str:
    if status in FAILED:
        return RED
    return {"COMPLETED": GREEN, "CANCELED": GREY}.get(status, AMBER)


def change_of(event: Event) -> str:
    names = {"created": "Created", "deleted": "Deleted", "started_run": "Run now"}
    if event.action in names:
        return names[event.action]
    if "enabled" in event.after:
        return "Paused" if event.after["enabled"] is False else "Resumed"
    return f"Changed {', '.join(event.after)}"


def svg(marks: Sequence[Mark], *, now: datetime) -> str:
    """With a title and a description for who does not see it; the page lists the marks too."""
    since = now - timedelta(days=DAYS)
    shown = [mark for mark in marks if mark.at >= since]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="timeline-title timeline-text" '
        'class="timeline" xmlns="http://www.w3.org/2000/svg">',
        f'<title id="timeline-title">The last {DAYS} days</title>',
        f'<desc id="timeline-text">{escape(summary(shown))}</desc>',
    ]
    for name, y in ROWS.items():
        parts.append(f'<text x="0" y="{y + 4}" font-size="13" fill="currentColor">{name}</text>')
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH}" y2="{y}" stroke="currentColor" stroke-opacity="0.2"/>')
    for days in range(0, DAYS + 1, 5):
        at = since + timedelta(days=days)
        x = position(at, since)
        anchor = "end" if days == DAYS else "middle"
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 6}" font-size="12" fill="currentColor" text-anchor="{anchor}">'
            f"{at:%d %b}</text>"
        )
    parts += [drawn(mark, position(mark.at, since)) for mark in shown]
    return "".join([*parts, "</svg>"])


def position(at: datetime, since: datetime) -> float:
    share = (at - since) / timedelta(days=DAYS)
    return round(LEFT + 8 + share * (WIDTH - LEFT - 16), 1)


def drawn(mark: Mark, x: float) -> str:
    y, title = ROWS[mark.row], f"<title>{escape(mark.text)}, {mark.at:%d %b %Y %H:%M} UTC</title>"
    if mark.shape == "cross":
        path = f"M{x - 5} {y - 5}L{x + 5} {y + 5}M{x - 5} {y + 5}L{x + 5} {y - 5}"
        return f'<path d="{path}" stroke="{mark.colour}" stroke-width="2.5">{title}</path>'
    if mark.shape == "square":
        return f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8" fill="{mark.colour}">{title}</rect>'
    return f'<circle cx="{x}" cy="{y}" r="4.5" fill="{mark.colour}">{title}</circle>'


def summary(marks: Sequence[Mark]) -> str:
    counts = dict[str, int]()
    for mark in marks:
        counts[mark.text] = counts.get(mark.text, 0) + 1
    return "; ".join(f"{text}: {count}" for text, count in counts.items()) or "Nothing has happened."
