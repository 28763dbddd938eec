"""A thread that does one thing, again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Worker:
    """Calls `action` on a daemon thread: every `interval` seconds, when woken, and once more as it stops.

    Args:
        action: Returns whether to go on; must not raise.
        interval: Seconds between two calls at most.
    """

    def __init__(self, action: Callable[[], bool], interval: float) -> None:
        self.seconds = 0.0  # CPU seconds that the calls took
        self._action, self._interval = action, interval
        self._wake = threading.Event()
        self._done = threading.Condition()
        self._asked = self._served = self._missed = 0
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._work, name="truestep-writer", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Call `action` now, and do not wait for it."""
        self._wake.set()

    def wait(self, seconds: float) -> bool:
        """Return True after a call of `action` that began later than this one, or when there will be no more.

        False when `seconds` were not enough; until `action` has answered that call, nobody waits for it again.
        """
        with self._done:
            if self._served < self._missed and not self._ended:
                return False
            self._asked += 1
            ticket = self._asked
            self._wake.set()
            served = self._done.wait_for(lambda: self._served >= ticket or self._ended, seconds)
            if not served:
                self._missed = ticket
            return served

    def stop(self, seconds: float) -> bool:
        """Call `action` a last time and end the thread; False if it has not ended after `seconds`."""
        self._stopping = True
        self._wake.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait(self._interval)
            self._wake.clear()
            ticket, stopping = self._asked, self._stopping  # before the call: what was asked for is done by it
            start = time.thread_time()
            going = self._action()
            self.seconds += time.thread_time() - start
            with self._done:
                self._served, self._ended = ticket, stopping or not going
                self._done.notify_all()
