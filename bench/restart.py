"""The first list after a start, beside a list of the same service later. Both come after the same pause.

The pause matters: a machine that has been idle for two seconds takes about twice as long for the same request.
"""

import statistics
import time

from bench import data
from bench.processes import Client, ServiceProcess, StandinProcess

STARTS, LATER = 7, 3
# Tasks of the list.
SIZE = 50
PAUSE = 2.0


def main(environment: dict[str, str], standin: StandinProcess) -> tuple[float, float, int]:
    """The seconds of the first list and of a later one, as medians, and the calls that the first lists caused."""
    service = ServiceProcess({**environment, "TRIGGER_API_URL": standin.url}, workers=1)
    first, later, calls = list[float](), list[float](), 0
    try:
        list_after_pause(service)
        for _ in range(STARTS):
            service.stop()
            service.start()
            calls_before = standin.call_count()
            first.append(list_after_pause(service))
            calls += standin.call_count() - calls_before
            later += [list_after_pause(service) for _ in range(LATER)]
    finally:
        service.stop()
    return statistics.median(first), statistics.median(later), calls


def list_after_pause(service: ServiceProcess) -> float:
    time.sleep(PAUSE)
    with Client(service.port, data.key_of(SIZE)) as client:
        client.http.connect()
        return client.get("/api/tasks")
