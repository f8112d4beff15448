"""What can go wrong when Trigger.dev is asked, told apart by what the caller can do about it."""


class TriggerError(Exception):
    """Trigger.dev could not be asked"""

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"{self.__doc__}: {detail}" if detail else str(self.__doc__))


class NotReached(TriggerError):
    """Trigger.dev cannot be reached"""


class TimedOut(TriggerError):
    """Trigger.dev did not answer in time"""


class TooManyRequests(TriggerError):
    """Trigger.dev asks us to wait"""

    def __init__(self, detail: str, *, retry_after: float) -> None:
        """`retry_after`: seconds from now until the limit is reset."""
        super().__init__(detail)
        self.retry_after = retry_after


class NotSent(TriggerError):
    """Trigger.dev is left alone"""

    def __init__(self, detail: str = "", *, retry_after: float, reason: str) -> None:
        """Nothing was sent. `retry_after`: seconds until it is worth trying again; `reason`: a word to count it by."""
        super().__init__(detail)
        self.retry_after, self.reason = retry_after, reason


class CircuitOpen(NotSent):
    """Trigger.dev is left alone, since it has failed repeatedly"""


class QuotaSpent(NotSent):
    """The caller has had its share of what Trigger.dev may be asked"""


class Refused(TriggerError):
    """Trigger.dev refused the request"""

    def __init__(self, detail: str, *, reason: str = "") -> None:
        """`reason`: what Trigger.dev itself said."""
        super().__init__(detail)
        self.reason = reason


class NotFound(TriggerError):
    """Trigger.dev does not know it"""


class Failed(TriggerError):
    """Trigger.dev failed"""


class BrokenAnswer(TriggerError):
    """Trigger.dev answered something else than was asked for"""
