"""A thread that hands out items when their time has come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from timar_ros.nodes import runtime
from timar_ros.nodes.ending_clock import EndingClock


class Playout:
    """Calls `show(item)` at each item's due time. Items must be put in the order of their due times.

    Args:
        now_ns: the clock that due times refer to; it may be simulated.
        show: called from this object's thread; its errors end the node.

    Attributes:
        now_ns: that clock, which goes on by the wall's while what is left is shown.
    """

    # A simulated clock may run at any rate and may jump: never sleep longer than this.
    LONGEST_SLEEP_S = 0.02

    def __init__(self, now_ns: Callable[[], int], show: Callable[[Any], None]) -> None:
        self.now_ns = EndingClock(now_ns)
        self._show = show
        self._items: deque[tuple[int, Any]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running = False

    def start(self) -> None:
        self.clear()
        self.now_ns.begin()
        self._running = True
        self._thread = runtime.start_thread(self._run, "playout")

    def put(self, due_ns: int, item: Any) -> None:
        with self._changed:
            self._items.append((due_ns, item))
            self._changed.notify()

    def clear(self) -> None:
        """Drop what is not due yet."""
        with self._changed:
            self._items.clear()

    def finish(self, longest_s: float) -> None:
        """Wait until all is shown, at most so long by the wall's clock, and end the thread."""
        self.now_ns.end()
        end = time.monotonic() + longest_s
        with self._changed:
            while self._items and time.monotonic() < end:
                self._changed.wait(self.LONGEST_SLEEP_S)
        self.stop()

    def stop(self) -> None:
        """Drop what is not due yet and end the thread."""
        with self._changed:
            self._running = False
            self._items.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._running and not self._items:
                    self._changed.wait()
                if not self._running:
                    return
                wait_s = (self._items[0][0] - self.now_ns()) * 1e-9
                if wait_s > 0:
                    self._changed.wait(min(wait_s, self.LONGEST_SLEEP_S))
                    continue
                _, item = self._items.popleft()
            self._show(item)
