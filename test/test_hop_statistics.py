"""Whether commands are late is judged by the last minute, not by a life."""

import numpy as np

from timar_ros.rates import FRAME_SAMPLES
from timar_ros.stream.conversation import Hop
from timar_ros.stream.frames import Frame
from timar_ros.stream.hop_statistics import HopStatistics

SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
HOP = Hop(tuple(Frame(i, 0, SILENCE, SILENCE, True, True) for i in range(2)), (), np.zeros((2, 55), np.float32))


def warns(statistics: HopStatistics) -> bool:
    return statistics.latency_status(2, 180_000_000, 0)[1]


def test_late_hops_are_warned_of_soon_after_hours_in_time_and_not_for_long_after_they_were_late():
    statistics = HopStatistics()
    for _ in range(20_000):
        statistics.add(HOP, 0, missed=False)
    assert not warns(statistics)
    for _ in range(10):
        statistics.add(HOP, 0, missed=True)
    name, late, said, values = statistics.latency_status(2, 180_000_000, 0)
    assert late and "10 of the last 750 hops" in said
    assert (values["hops"], values["deadline_misses"]) == (20_010, 10)
    for _ in range(750):
        statistics.add(HOP, 0, missed=False)
    assert not warns(statistics)
