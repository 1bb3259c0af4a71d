"""The node's clock, which goes on while the node ends."""

from __future__ import annotations

import time
from collections.abc import Callable


class EndingClock:
    """ROS time; once `end` was called it is that moment's, and what has passed since by the wall's clock.

    Simulated time comes with messages on /clock, which the executor's thread takes in. That thread also takes the node
    through its transitions, so simulated time stands still for as long as one of them brings the head to rest.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._ended: tuple[int, int] | None = None

    def __call__(self) -> int:
        """ns"""
        ended = self._ended
        return self._now_ns() if ended is None else ended[0] + time.monotonic_ns() - ended[1]

    def end(self) -> None:
        self._ended = self._now_ns(), time.monotonic_ns()

    def begin(self) -> None:
        """Be the node's clock again."""
        self._ended = None
