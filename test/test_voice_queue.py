"""A synthesiser's sound, in bursts, on one timeline in real time."""

import numpy as np
import pytest

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.frames import PARTNER, SELF, FramePairer
from timar_ros.stream.lookahead import own_voice_ahead
from timar_ros.stream.voice_queue import RESERVE_MS, VoiceQueue

MS = 1_000_000
START = 1_800_000_000_000 * MS
RATE = 16_000


def tone(seconds, rate=RATE, hertz=300.0):
    """Loud from its first sample to its last."""
    return (0.5 * np.cos(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def chunk(samples, stamp_ms=None, rate=RATE):
    return AudioChunk(None if stamp_ms is None else START + round(stamp_ms * MS), rate, samples)


def spoken(queue, from_ms, to_ms, step_ms=10):
    """What the queue gives out while time goes on, as one stretch."""
    packets = [p for ms in range(from_ms, to_ms, step_ms) for p in queue.due(START + ms * MS)]
    return np.concatenate([p.samples for p in packets])


def begun(rate=RATE):
    queue = VoiceQueue(rate)
    queue.due(START)
    return queue


def test_a_burst_is_spoken_in_real_time_and_whole():
    queue = begun()
    sentence = tone(3.0)
    for part in np.split(sentence, 30):  # all at once
        queue.push(chunk(part), START)
    sound = spoken(queue, 10, 4000)
    reserve = RATE * RESERVE_MS // 1000
    assert not sound[:reserve].any()
    np.testing.assert_array_equal(sound[reserve : reserve + len(sentence)], sentence)
    assert not sound[reserve + len(sentence) :].any()
    assert queue.health(START + 4000 * MS)[1] == "nothing is queued"


def test_packets_are_stamped_without_a_gap_and_come_when_they_end():
    queue = begun()
    queue.push(chunk(tone(0.5)), START)
    for now_ms in (13, 47, 52, 400):
        packets = queue.due(START + now_ms * MS)
        assert all(p.stamp_ns + p.duration_ns <= START + now_ms * MS for p in packets)
        assert START + now_ms * MS - (packets[-1].stamp_ns + packets[-1].duration_ns) < 10 * MS
        assert {b.stamp_ns - a.stamp_ns for a, b in zip(packets, packets[1:], strict=False)} <= {10 * MS}


@pytest.mark.parametrize("rate", [22_050, 24_000, 48_000])
def test_sentences_of_other_rates_keep_their_length_and_end(rate):
    queue = begun()
    sentence = tone(1.0, rate)
    for part in np.array_split(sentence, 7):
        queue.push(chunk(part, rate=rate), START)
    sound = spoken(queue, 10, 2000)
    loud = np.flatnonzero(np.abs(sound) > 0.05)
    assert (loud[-1] - loud[0]) / RATE == pytest.approx(1.0, abs=0.003)


@pytest.mark.parametrize("rate", [11_025, 22_050, 44_056])
def test_a_rate_without_whole_packets_is_spoken_at_its_pace(rate):
    queue = begun(rate)
    sentence = tone(20.0, rate)
    queue.push(chunk(sentence, rate=rate), START)
    sound = spoken(queue, 10, 20_100)
    first = rate * RESERVE_MS // 1000
    np.testing.assert_array_equal(sound[first : first + len(sentence)], sentence)
    assert len(sound) / rate == pytest.approx(20.09, abs=0.001)


def test_two_sentences_are_spoken_one_after_the_other():
    queue = begun()
    queue.push(chunk(tone(1.0)), START)
    queue.push(chunk(tone(1.0, hertz=500)), START + 5 * MS)
    loud = np.abs(spoken(queue, 10, 3000)) > 0
    assert loud.sum() / RATE == pytest.approx(2.0, abs=0.01)
    assert np.ptp(np.flatnonzero(loud)) / RATE == pytest.approx(2.0, abs=0.01)


def test_a_pause_that_the_stamps_ask_for_is_kept():
    queue = begun()
    queue.push(chunk(tone(0.5), 0), START)
    queue.push(chunk(tone(0.5), 800), START)  # 300 ms after the first one's end
    loud = np.flatnonzero(np.abs(spoken(queue, 10, 2000)) > 0)
    assert np.diff(loud).max() / RATE == pytest.approx(0.3, abs=0.005)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_a_pause_comes_after_the_whole_sound_before_it_at_any_rate(rate):
    queue = begun()
    queue.push(AudioChunk(START, rate, np.full(rate // 2, 0.5, np.float32)), START)
    queue.push(AudioChunk(START + 1500 * MS, rate, np.full(rate // 2, -0.5, np.float32)), START)  # 1 s of pause
    sound = spoken(queue, 10, 3000)
    first, second = np.flatnonzero(sound > 0.2), np.flatnonzero(sound < -0.2)
    assert (first[-1] - first[0]) / RATE == pytest.approx(0.5, abs=0.001)
    assert (second[0] - first[-1]) / RATE == pytest.approx(1.0, abs=0.002)


@pytest.mark.parametrize("arrival_ms", [500, 2000, 4500])
def test_stamps_of_the_time_of_sending_ask_for_no_pause(arrival_ms):
    """As of a synthesiser whose next text comes amid the one before, or after it."""
    queue = begun()
    for part in np.split(tone(1.0), 20):
        queue.push(chunk(part, 0), START)
    before = spoken(queue, 10, arrival_ms + 10)
    queue.push(chunk(tone(1.0), arrival_ms), START + arrival_ms * MS)
    sound = np.concatenate([before, spoken(queue, arrival_ms + 10, arrival_ms + 3000)])
    end_ms = np.flatnonzero(sound)[-1] * 1000 / RATE
    assert end_ms == pytest.approx(max(arrival_ms, 1000) + RESERVE_MS + 1000, abs=11)


def test_overlapping_stamps_lose_no_sound():
    """As of a synthesiser that stamps each packet of its burst with the time of sending."""
    queue = begun()
    parts = np.split(tone(1.0), 10)
    for k, part in enumerate(parts):
        queue.push(chunk(part, k), START)
    sound = spoken(queue, 10, 2000)
    assert (np.abs(sound) > 0).sum() / RATE == pytest.approx(1.0, abs=0.01)
    warn, _, values = queue.health(START + 2000 * MS)
    assert values["overlaps"] == 9 and not warn


def test_stamps_that_go_back_in_time_are_told_and_spoken_in_turn():
    queue = begun()
    queue.push(chunk(tone(0.5), 0), START)
    queue.push(chunk(tone(0.5), -60_000), START)
    assert (np.abs(spoken(queue, 10, 2000)) > 0).sum() / RATE == pytest.approx(1.0, abs=0.01)
    warn, said, values = queue.health(START + 2000 * MS)
    assert warn and "went back by 60.5 s" in said and values["back_in_time"] == 1


def test_a_double_is_spoken_once():
    queue = begun()
    for _ in range(2):
        queue.push(chunk(tone(0.5), 0), START)
    assert queue.queued_ns == 500 * MS + RESERVE_MS * MS


def test_a_synthesiser_that_is_too_slow_is_told():
    queue = begun()
    queue.push(chunk(tone(0.3)), START)
    before = spoken(queue, 10, 500)
    queue.push(chunk(tone(0.3)), START + 500 * MS)
    after = spoken(queue, 500, 1200)
    assert (np.abs(np.concatenate([before, after])) > 0).sum() / RATE == pytest.approx(0.6, abs=0.01)
    warn, said, values = queue.health(START + 600 * MS)
    assert warn and "too slow" in said and values["underruns"] == 1


def test_the_next_sentence_after_a_rest_is_no_underrun():
    queue = begun()
    queue.push(chunk(tone(0.3)), START)
    spoken(queue, 10, 2000)
    queue.push(chunk(tone(0.3)), START + 2000 * MS)
    assert queue.health(START + 2000 * MS)[2]["underruns"] == 0


def test_a_flush_drops_what_was_not_given_out():
    queue = begun()
    queue.push(chunk(tone(2.0)), START)
    spoken(queue, 10, 510)
    assert queue.flush(START + 510 * MS) / MS == pytest.approx(1540, abs=11)
    assert not spoken(queue, 520, 1000).any()
    queue.push(chunk(tone(0.2)), START + 1000 * MS)
    assert (np.abs(spoken(queue, 1000, 1500)) > 0).sum() / RATE == pytest.approx(0.2, abs=0.01)


def test_a_flush_leaves_nothing_in_the_filter_of_another_rate():
    queue = begun()
    queue.push(chunk(tone(2.0, 24_000), rate=24_000), START)
    spoken(queue, 10, 510)
    queue.flush(START + 510 * MS)
    assert not spoken(queue, 520, 1000).any()
    assert not queue.known(START + 1000 * MS).any()


@pytest.mark.parametrize("ahead_ms", [6_000, 3_600_000])
def test_a_stamp_far_ahead_asks_for_no_pause(ahead_ms):
    queue = begun()
    queue.push(chunk(tone(0.5), 0), START)
    queue.push(chunk(tone(0.5), ahead_ms), START)
    loud = np.flatnonzero(spoken(queue, 10, 2000))
    assert len(loud) / RATE == pytest.approx(1.0, abs=0.01)
    assert np.ptp(loud) / RATE == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("leap_ms", [-60_000, 60_000, 3_600_000])
def test_what_is_queued_is_spoken_on_although_the_clock_leaps(leap_ms):
    queue = begun()
    queue.push(chunk(tone(1.0)), START)
    before = spoken(queue, 10, 510)
    after = spoken(queue, 510 + leap_ms, 1500 + leap_ms)
    assert np.count_nonzero(np.concatenate([before, after])) / RATE == pytest.approx(1.0, abs=0.02)
    assert len(after) / RATE < 1.1


def test_sound_of_another_rate_behind_it_costs_no_sound():
    queue = begun()
    for rate in (24_000, 48_000):
        queue.push(chunk(tone(0.5, rate, 0.0), rate=rate), START)
    sound = spoken(queue, 10, 1500)
    assert np.count_nonzero(np.abs(sound) > 0.2) / RATE == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("before_ms", "arrival_ms", "stamp_ms", "said"),
    [
        (5, 5, None, False),  # unstamped, amid a burst
        (5, 150, None, True),
        (200, 5, None, True),  # the burst was over
        (200, 5, -1, False),
        (200, 300, -1, False),  # stamped before the flush, kept long by the network
        (5, 5, 1, True),  # said since, at once
        (5, 600, -1, True),  # the synthesiser's clock is late
    ],
)
def test_what_was_on_its_way_at_a_flush_is_dropped_and_what_is_said_since_is_spoken(
    before_ms, arrival_ms, stamp_ms, said
):
    queue = begun()
    queue.push(chunk(tone(2.0)), START)
    spoken(queue, 10, 510)
    queue.push(chunk(tone(0.1)), START + (510 - before_ms) * MS)
    queue.flush(START + 510 * MS)
    arrival_ms += 510
    queue.push(chunk(tone(0.2), None if stamp_ms is None else 510 + stamp_ms), START + arrival_ms * MS)
    assert spoken(queue, arrival_ms, arrival_ms + 500).any() == said
    assert queue.health(START + arrival_ms * MS)[2]["overtaken"] == (not said)


def test_more_than_five_minutes_are_refused_with_what_to_do():
    queue = begun()
    for _ in range(30):
        queue.push(chunk(np.zeros(RATE * 10 - 100, np.float32)), START)
    with pytest.raises(TimarError, match="call ~/flush"):
        queue.push(chunk(np.zeros(RATE, np.float32)), START)


# What is known before it is spoken, as a policy that looks ahead is told it.

AHEAD = 3


def heard(queue, events, seconds):
    """The frames of a conversation with a silent partner, and what the queue knew `AHEAD` frames ahead at each.

    Args:
        events: {ms: what then happens to the queue}.
    """
    pairer, frames, known = FramePairer(), [], []
    pairer.push(PARTNER, chunk(np.zeros(5 * RATE // 1000), -3.3), START)  # the timeline begins off the queue's packets
    for ms in range(10, round(1000 * seconds), 10):
        now_ns = START + ms * MS
        if ms in events:
            events[ms]()
        for packet in queue.due(now_ns):
            pairer.push(SELF, packet, now_ns)
        pairer.push(PARTNER, chunk(np.zeros(RATE // 100), ms - 8.3), now_ns + 2 * MS)
        for frame in pairer.poll(now_ns + 2 * MS):
            frames.append(frame)
            known.append(queue.known(frame.stamp_ns + AHEAD * FRAME_NS))
    return frames, np.array(known)


def loud(samples):
    return np.abs(samples).max(axis=1) > 0


@pytest.mark.parametrize("rate", [16_000, 22_050, 24_000])
def test_what_is_known_ahead_is_what_is_heard_that_much_later(rate):
    queue = begun()
    sentences = {50: tone(1.0, rate), 60: tone(0.7, rate, 500.0)}
    frames, known = heard(
        queue,
        {
            ms: lambda s=s: [queue.push(chunk(p, rate=rate), START) for p in np.array_split(s, 9)]
            for ms, s in sentences.items()
        },
        3.0,
    )
    later = np.array([frame.own for frame in own_voice_ahead(frames, AHEAD)])
    since = next(i for i, frame in enumerate(frames) if frame.stamp_ns + FRAME_NS > START + 70 * MS)
    np.testing.assert_array_equal(known[since:-AHEAD], later[since:-AHEAD])
    assert loud(known).sum() >= 1.7 * 25 - AHEAD


@pytest.mark.parametrize("rate", [22_050, 24_000])
def test_a_queue_of_another_rate_is_known_as_it_will_be_heard(rate):
    queue = begun(rate)
    frames, known = heard(queue, {50: lambda: queue.push(chunk(tone(1.0, rate), rate=rate), START)}, 2.0)
    later = np.array([frame.own for frame in own_voice_ahead(frames, AHEAD)])
    assert loud(known).sum() >= 20
    np.testing.assert_allclose(known[3:-AHEAD], later[3:-AHEAD], atol=0.01)


def test_a_sentence_that_finds_the_queue_empty_begins_as_soon_as_ever_and_is_known_from_then_on():
    queue = begun()
    frames, known = heard(queue, {500: lambda: queue.push(chunk(tone(1.0)), START + 500 * MS)}, 2.0)
    first = int(np.argmax(loud([frame.own for frame in frames])))
    began_ms = (frames[first].stamp_ns - START) / MS + np.argmax(np.abs(frames[first].own) > 0) / 16
    assert began_ms == pytest.approx(500 - 10 + RESERVE_MS, abs=1)  # the packet that was due then had not been given
    before = [frame.stamp_ns + FRAME_NS < START + 490 * MS for frame in frames]
    assert not known[before].any()
    later = np.array([frame.own for frame in own_voice_ahead(frames, AHEAD)])
    after = [frame.stamp_ns + FRAME_NS > START + 500 * MS for frame in frames]
    np.testing.assert_array_equal(known[after][:-AHEAD], later[after][:-AHEAD])


def test_nothing_is_known_of_what_was_flushed():
    queue = begun()
    events = {50: lambda: queue.push(chunk(tone(2.0)), START), 800: lambda: queue.flush(START + 800 * MS)}
    frames, known = heard(queue, events, 1.5)
    after = np.array([frame.stamp_ns + FRAME_NS > START + 790 * MS for frame in frames])  # asked for from then on
    assert loud(known)[~after][-5:].all()
    assert not known[after].any()


def test_what_was_given_out_a_second_ago_is_still_known():
    queue = begun()
    queue.push(chunk(tone(2.0)), START)
    sound = spoken(queue, 10, 1510)
    at = slice(500 * RATE // 1000, 500 * RATE // 1000 + FRAME_SAMPLES)
    np.testing.assert_array_equal(queue.known(START + 500 * MS), sound[at])


def test_before_anything_was_given_out_silence_is_known():
    queue = VoiceQueue(RATE)
    queue.push(chunk(tone(1.0)), START)
    assert not queue.known(START).any()
