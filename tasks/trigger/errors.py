"""What can go wrong in a call to Trigger.dev, by what the caller can do about it."""


class TriggerError(Exception):
    """A call to Trigger.dev failed"""

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{self.__doc__}: {detail}" if detail else str(self.__doc__))


class NotReached(TriggerError):
    """Trigger.dev cannot be reached"""


class TimedOut(TriggerError):
    """Trigger.dev did not answer in time"""


class TooManyRequests(TriggerError):
    """Trigger.dev has rate limited us"""

    def __init__(self, detail: str, *, retry_after: float) -> None:
        """`retry_after`: seconds until the rate-limit reset."""
        super().__init__(detail)
        self.retry_after = retry_after


class NotSent(TriggerError):
    """The call to Trigger.dev was not sent"""

    def __init__(self, detail: str = "", *, retry_after: float, reason: str) -> None:
        """`retry_after`: seconds until a new try may succeed. `reason`: a word to count it by."""
        super().__init__(detail)
        self.retry_after, self.reason = retry_after, reason


class CircuitOpen(NotSent):
    """The call was not sent, because Trigger.dev has failed repeatedly"""


class QuotaExceeded(NotSent):
    """The call was not sent, because its account has used its quota"""


class Refused(TriggerError):
    """Trigger.dev refused the request"""

    def __init__(self, detail: str, *, reason: str = "", status: int = 0) -> None:
        """`reason`: Trigger.dev's own words. `status`: of its answer."""
        super().__init__(detail)
        self.reason, self.status = reason, status


class NotFound(TriggerError):
    """Trigger.dev does not know it"""


class Failed(TriggerError):
    """Trigger.dev failed"""


class BrokenAnswer(TriggerError):
    """Trigger.dev sent an unexpected answer"""


class TooLarge(BrokenAnswer):
    """Trigger.dev sent an answer that is too large"""
