"""Latency is reception minus stamp; reaction is the delay of every sample to its first command."""

import numpy as np
import pytest

from timar_ros.robot.command_timing import CommandTiming

MS = 1_000_000
START = 1_800_000_000_000 * MS


def test_latency_is_reception_minus_stamp():
    timing = CommandTiming()
    assert timing(START, START + 25 * MS) == pytest.approx(25.0)
    assert timing.percentiles()["latency_ms_p50"] == pytest.approx(25.0, abs=0.1)


def test_reaction_is_taken_over_all_samples():
    rng = np.random.default_rng(1)
    latencies = rng.uniform(10, 60, 500)
    timing = CommandTiming()
    delays = []
    for k, latency in enumerate(latencies):
        timing(START + k * 80 * MS, START + round((k * 80 + latency) * MS))
        if k:
            # The samples of the 80 ms before the stamp, 16 a millisecond.
            delays.append(latency + np.arange(80 * 16) / 16)
    expected = np.percentile(np.concatenate(delays), [50, 95, 99])
    figures = timing.percentiles()
    found = [figures[f"reaction_ms_p{p}"] for p in (50, 95, 99)]
    np.testing.assert_allclose(found, expected, atol=0.2)


def test_a_lost_command_shows_in_the_reaction():
    timing = CommandTiming()
    for k in (0, 1, 3):
        timing(START + k * 80 * MS, START + (k * 80 + 20) * MS)
    # 80 ms of samples waited 20 to 100 ms, and 160 ms of them 20 to 180 ms.
    assert timing.percentiles()["reaction_ms_p99"] == pytest.approx(177.6, abs=0.3)


def test_an_older_command_covers_no_samples_again():
    timing = CommandTiming()
    timing(START, START + 20 * MS)
    timing(START + 80 * MS, START + 100 * MS)
    before = timing.percentiles()["reaction_ms_p50"]
    timing(START, START + 400 * MS)
    assert timing.percentiles()["reaction_ms_p50"] == before


def test_a_pause_of_the_conversation_is_no_reaction():
    timing = CommandTiming()
    timing(START, START + 20 * MS)
    timing(START + 60_000 * MS, START + 60_020 * MS)
    timing(START + 60_080 * MS, START + 60_100 * MS)
    assert timing.percentiles()["reaction_ms_p99"] < 101


def test_without_stamps_there_is_nothing_to_tell():
    timing = CommandTiming()
    assert timing(0, START) is None
    assert set(timing.percentiles().values()) == {None}
