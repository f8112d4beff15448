"""Every schedule that Trigger.dev lists, whatever is wrong with some of them.

A schedule that Trigger.dev itself cannot show breaks every page that it is on (recorded: sched_list__POISONED). Such a
page is read again in smaller ones, down to single schedules, and only those that cannot be shown are left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tasks.trigger import errors
from tasks.trigger.client import SCHEDULES_PER_PAGE, TriggerClient
from tasks.trigger.types import Schedule, SchedulePage

# More than this many, and it is Trigger.dev that fails, not a schedule.
MOST_UNREADABLE = 10

Ask = Callable[[Callable[[float], SchedulePage]], SchedulePage]


@dataclass(frozen=True)
class ScheduleList:
    schedules: list[Schedule]
    unreadable: int


def read_all(client: TriggerClient, *, ask: Ask, on_page: Callable[[int, int], None]) -> ScheduleList:
    """Raises the TriggerError that makes the list as a whole unreadable.

    Schedules that are made or deleted meanwhile move the pages: one may be missing here that is there.
    `on_page` is told how many were read, of how many.
    """
    found: dict[str, Schedule] = {}
    position, count, unreadable = 0, 1, 0
    while position < count:
        for page in pages(client, position, SCHEDULES_PER_PAGE, ask=ask):
            if isinstance(page, errors.TriggerError):
                unreadable += 1
                if unreadable > MOST_UNREADABLE:
                    raise page
                continue
            # Nothing is after an empty page, whatever the count says.
            count = page.count if page.schedules or unreadable else position
            found |= {schedule.id: schedule for schedule in page.schedules}
        position += SCHEDULES_PER_PAGE
        on_page(len(found), count)
    return ScheduleList(list(found.values()), unreadable)


def pages(
    client: TriggerClient, position: int, size: int, *, ask: Ask
) -> Iterator[SchedulePage | errors.Failed | errors.BrokenAnswer]:
    """The `size` schedules from `position` on: one page, or the smaller ones that it falls into."""
    try:
        yield ask(partial(read_page, client, position // size + 1, size))
    except (errors.Failed, errors.BrokenAnswer) as error:
        if size == 1:
            yield error
            return
        for start in range(position, position + size, size // 10):
            yield from pages(client, start, size // 10, ask=ask)


def read_page(client: TriggerClient, page: int, size: int, deadline: float) -> SchedulePage:
    return client.list_schedules(page=page, per_page=size, deadline=deadline)
