"""Items are handed out when they are due, by a clock that may jump, stand still or be simulated."""

import threading
import time

import pytest

pytest.importorskip("rclpy")

from timar_ros.nodes import runtime
from timar_ros.nodes.playout import Playout

MS = 1_000_000


def test_what_is_left_is_shown_although_the_clock_stands_still():
    """As simulated time does while the executor's thread, which would take it in, waits for the end."""
    shown = []
    playout = Playout(lambda: 10**12, shown.append)
    playout.start()
    for item in range(8):
        playout.put(10**12 + 40 * MS * item, item)
    begin = time.monotonic()
    playout.finish(5.0)
    assert shown == list(range(8))
    assert 0.25 < time.monotonic() - begin < 4.0


def test_it_waits_for_its_own_clock_before_and_after():
    shown, now_ns = [], [10**12]
    playout = Playout(lambda: now_ns[0], shown.append)
    for _ in range(2):  # the second time after it has ended once
        playout.start()
        playout.put(now_ns[0] + 40 * MS, "later")
        time.sleep(0.1)
        assert not shown
        now_ns[0] += 40 * MS
        limit = time.monotonic() + 5.0
        while not shown and time.monotonic() < limit:
            time.sleep(0.01)
        assert shown == ["later"]
        playout.finish(1.0)
        shown.clear()


def test_an_item_that_cannot_be_shown_ends_the_node(monkeypatch):
    told, failed = [], threading.Event()

    def fail(error: Exception) -> None:
        told.append(str(error))
        failed.set()

    monkeypatch.setattr(runtime, "fail", fail)

    def show(item: object) -> None:
        raise ValueError(f"{item} cannot be shown")

    playout = Playout(lambda: 10**12, show)
    playout.start()
    playout.put(10**12, "it")
    assert failed.wait(5.0) and told == ["it cannot be shown"]
    playout.stop()
