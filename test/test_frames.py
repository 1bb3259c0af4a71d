"""Two voices paired into 40 ms frames, whatever the network and the clocks do to the packets."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from timar_ros.errors import TimarError
from timar_ros.rates import FRAME_NS, FRAME_SAMPLES
from timar_ros.stream.audio_messages import AudioChunk
from timar_ros.stream.frames import PARTNER, SELF, FramePairer

T0 = 1_790_000_000_000_000_000
MS = 1_000_000
SECOND = 1_000_000_000


def voice(seconds: float, seed: int = 0, rate: int = 16_000) -> np.ndarray:
    """Noise that no two packets share, float32."""
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * rate))).astype(np.float32)


def packets(samples, party, size=320, rate=16_000, start_ns=T0, delay=lambda i: 0, stamped=True, ppm=0.0):
    """(arrival, party, chunk) of a stream whose device clock runs `ppm` fast, stamps being true."""
    out = []
    for i, at in enumerate(range(0, len(samples), size)):
        chunk = samples[at : at + size]
        begin, end = (start_ns + round(n * SECOND / rate / (1 + ppm * 1e-6)) for n in (at, at + len(chunk)))
        stamp = begin if stamped else None
        out.append((end + round(delay(i)), party, AudioChunk(stamp, rate, chunk)))
    return out


def play(events, until_ns=None, max_wait_ms=60.0):
    """Deliver packets as a node would, polling at each deadline.

    Returns the pairer, its frames, and the time at which each was given out.
    """
    pairer, frames, given_out = FramePairer(max_wait_ms), [], []

    def poll(now):
        new = pairer.poll(now)
        frames.extend(new)
        given_out.extend([now] * len(new))

    now = 0
    for arrival, party, chunk in sorted(events, key=lambda event: event[0]):
        while (due := pairer.next_deadline_ns()) is not None and max(due, now) < arrival:
            now = max(due, now)
            poll(now)
        now = max(now, arrival)
        pairer.push(party, chunk, arrival)
        poll(now)
    while until_ns is not None and max(now, pairer.next_deadline_ns()) <= until_ns:
        now = max(now, pairer.next_deadline_ns())
        poll(now)
    return pairer, frames, np.array(given_out)


def heard(frames, party=SELF):
    name = "own" if party == SELF else "partner"
    return np.concatenate([getattr(frame, name) for frame in frames])


def assert_consecutive(frames, first_stamp_ns=T0):
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert [f.stamp_ns for f in frames] == [first_stamp_ns + i * FRAME_NS for i in range(len(frames))]


def test_frames_hold_both_voices_sample_by_sample_and_wait_for_nothing():
    own, partner = voice(4), voice(4, 1)
    _, frames, given_out = play(packets(own, SELF, 320) + packets(partner, PARTNER, 160))
    assert len(frames) == 100
    assert_consecutive(frames)
    assert np.array_equal(heard(frames), own) and np.array_equal(heard(frames, PARTNER), partner)
    assert all(frame.own_heard and frame.partner_heard for frame in frames)
    ends = np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert np.array_equal(given_out, ends)


def test_no_frames_before_the_first_packet():
    pairer = FramePairer()
    assert pairer.poll(T0) == [] and pairer.next_deadline_ns() is None
    assert pairer.health()[SELF]["message"] == "no audio yet"


def test_stamps_place_packets_whatever_their_time_of_arrival():
    own, partner = voice(6), voice(6, 1)
    late = np.random.default_rng(0).uniform(-60, 60, (2, 1000)) * MS
    late[:, :12] = 0  # so that nothing overtakes the packet that starts the timeline
    events = packets(own, SELF, 160, delay=lambda i: late[0, i])
    events += packets(partner, PARTNER, 640, delay=lambda i: late[1, i])
    pairer, frames, _ = play(events)
    count = len(frames) * FRAME_SAMPLES
    assert count >= 16_000 * 5.9
    assert np.array_equal(heard(frames)[:count], own[:count])
    assert np.array_equal(heard(frames, PARTNER)[:count], partner[:count])
    assert pairer.health()[SELF]["jitter_ms"] > 10


def test_a_lost_packet_is_silence_in_its_place():
    own = voice(4)
    events = packets(own, SELF, 320)
    del events[50]
    pairer, frames, given_out = play(events + packets(own, PARTNER, 320))
    expected = own.copy()
    expected[50 * 320 : 51 * 320] = 0
    assert np.array_equal(heard(frames), expected)
    assert pairer.health()[SELF]["lost_ms"] == pytest.approx(20)
    ends = np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert (given_out - ends).max() <= 81 * MS  # max_wait and a packet


def test_doubled_and_reordered_packets_do_no_harm():
    own = voice(4)
    events = packets(own, SELF, 320)
    events[20], events[21] = (
        (events[21][0], *events[20][1:]),
        (events[20][0], *events[21][1:]),
    )
    events.append((events[70][0] + 5 * MS, *events[70][1:]))
    pairer, frames, _ = play(events + packets(own, PARTNER, 320))
    assert np.array_equal(heard(frames), own)
    assert pairer.health()[SELF]["duplicated"] == 1
    assert pairer.health()[SELF]["reordered"] == 1


def test_a_doubled_packet_without_stamp_is_known_by_what_it_holds():
    own = voice(4)
    events = packets(own, SELF, 640, stamped=False)
    events.append((events[50][0] + MS, *events[50][1:]))
    pairer, frames, _ = play(events + packets(own, PARTNER, 640))
    assert np.array_equal(heard(frames), own)
    assert pairer.health()[SELF]["duplicated"] == 1


def test_what_comes_after_the_wait_is_late_and_the_rest_stays_in_place():
    own = voice(4)
    events = packets(own, SELF, 320, delay=lambda i: 200 * MS if i == 50 else 0)
    pairer, frames, _ = play(events + packets(own, PARTNER, 320))
    expected = own.copy()
    expected[50 * 320 : 51 * 320] = 0
    assert np.array_equal(heard(frames), expected)
    assert pairer.health()[SELF]["late"] == 1


def test_an_absent_voice_delays_frames_only_at_the_start():
    own = voice(4)
    _, frames, given_out = play(packets(own, SELF, 320))
    assert np.array_equal(heard(frames), own)
    assert not any(frame.partner_heard for frame in frames)
    ends = np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert np.array_equal(given_out[10:], ends[10:])


def test_a_voice_that_starts_late_comes_in_at_its_place():
    own, partner = voice(4), voice(2, 1)
    start = 1_234_500_000
    events = packets(own, SELF, 160) + packets(partner, PARTNER, 160, start_ns=T0 + start)
    _, frames, _ = play(events)
    expected = np.concatenate([np.zeros(round(start * 16e-6), np.float32), partner])
    got = heard(frames, PARTNER)[: len(expected)]
    assert np.array_equal(got[-31_000:], expected[len(got) - 31_000 : len(got)])
    assert not got[:16_000].any()


def test_a_voice_that_stops_and_returns_is_back_at_its_place():
    own, partner = voice(6), voice(6, 1)
    away = [event for event in packets(partner, PARTNER, 320) if not 2 <= event[0] / 1e9 - T0 / 1e9 < 4]
    pairer, frames, given_out = play(packets(own, SELF, 320) + away)
    ends = np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert np.array_equal(heard(frames), own)
    assert np.array_equal(heard(frames, PARTNER)[:31_000], partner[:31_000])
    assert np.array_equal(heard(frames, PARTNER)[-30_000:], partner[-30_000:])
    assert np.array_equal(given_out[60:95], ends[60:95])  # known silent: nobody waits
    assert not frames[75].partner_heard and frames[140].partner_heard
    assert pairer.health()[PARTNER]["silence_filled_ms"] == pytest.approx(2000, abs=40)


def test_frames_go_on_when_both_voices_stop():
    own = voice(1)
    end = T0 + 5 * SECOND
    pairer, frames, given_out = play(packets(own, SELF) + packets(own, PARTNER), until_ns=end)
    assert_consecutive(frames)
    assert len(frames) >= 120
    assert not frames[-1].own_heard and not heard(frames[40:]).any()
    lateness = given_out - np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert lateness.max() <= 150 * MS
    assert pairer.health()[SELF]["message"].startswith("no audio for 4")


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_sample_rates_are_paired_in_time(rate):
    seconds = np.arange(rate * 3) / rate
    tone = (0.5 * np.sin(2 * np.pi * 300 * seconds)).astype(np.float32)
    reference = (0.5 * np.sin(2 * np.pi * 300 * np.arange(48_000) / 16_000)).astype(np.float32)
    _, frames, _ = play(packets(tone, SELF, rate // 50, rate) + packets(reference, PARTNER, 320))
    inner = slice(1000, len(frames) * FRAME_SAMPLES - 1000)
    assert np.abs(heard(frames)[inner] - heard(frames, PARTNER)[inner]).max() < 1e-3


def test_a_sample_rate_that_changes_is_followed_and_told():
    tones = {
        rate: (0.5 * np.sin(2 * np.pi * 250 * np.arange(rate * 2) / rate)).astype(np.float32)
        for rate in (16_000, 48_000)
    }
    events = packets(tones[48_000], SELF, 960, 48_000)
    events += packets(tones[16_000], SELF, 320, 16_000, start_ns=T0 + 2 * SECOND)
    pairer, frames, _ = play(events)
    both = np.concatenate([tones[16_000], tones[16_000]])[: len(frames) * FRAME_SAMPLES]
    error = np.abs(heard(frames) - both)
    assert error[500:31_500].max() < 1e-3 and error[32_500:].max() < 1e-3
    health = pairer.health()[SELF]
    assert health["rate"] == 16_000 and health["rate_changes"] == 1
    assert "changed from 48000 to 16000 Hz" in health["message"]


def pulses(seconds: int, ppm: float, rate: int = 16_000) -> np.ndarray:
    """A pulse in the middle of each second of true time, by a device clock that is `ppm` fast."""
    samples = np.zeros(seconds * rate, np.float32)
    middles = (np.arange(seconds - 1) + 0.5) * rate * (1 + ppm * 1e-6)
    at = np.round(middles).astype(int)[:, None] + np.arange(-80, 81)
    samples[at] = np.exp(-(((at - middles[:, None]) / rate / 0.001) ** 2))
    return samples


def pulse_times(samples: np.ndarray) -> np.ndarray:
    """Time of the pulse within each second, in ms; NaN where there is none."""
    seconds = samples[: len(samples) // 16_000 * 16_000].reshape(-1, 16_000)
    total = seconds.sum(axis=1)
    weighted = (seconds * np.arange(16_000)).sum(axis=1)
    return np.where(total > 5, weighted / np.maximum(total, 1e-9), np.nan) / 16


@pytest.mark.parametrize("stamps", ["true", "counted by the device", "none"])
def test_clock_drift_of_200_ppm_stays_below_10_ms_over_30_minutes(stamps):
    minutes, size = 30, 1280
    own, partner = (pulses(minutes * 60, ppm) for ppm in (200.0, 0.0))
    mine = packets(own, SELF, size, ppm=200.0, stamped=stamps != "none")
    if stamps == "counted by the device":
        mine = [
            (arrival, party, AudioChunk(T0 + i * 2 * FRAME_NS, 16_000, chunk.samples))
            for i, (arrival, party, chunk) in enumerate(mine)
        ]
    events = mine + packets(partner, PARTNER, size, stamped=stamps != "none")
    pairer, frames, _ = play(events)
    apart = pulse_times(heard(frames)) - pulse_times(heard(frames, PARTNER))
    assert np.isfinite(apart).mean() > 0.99
    assert np.nanmax(np.abs(apart)) < 10
    assert pairer.health()[SELF]["drift_ppm"] == pytest.approx(200, abs=30)


def test_unstamped_packets_that_begin_with_a_late_burst_are_placed_by_the_earliest():
    """A publisher's first call takes long; what it held back comes at once."""
    late = [50 * MS - i * 10 * MS for i in range(5)]

    def delay(i):
        return late[i] if i < len(late) else 0

    own, partner = voice(2), voice(2, 1)
    events = packets(own, SELF, 160, delay=delay, stamped=False)
    events += packets(partner, PARTNER, 160, stamped=False)
    _, frames, _ = play(events)
    assert_consecutive(frames)
    np.testing.assert_array_equal(heard(frames), own[: 640 * len(frames)])
    np.testing.assert_array_equal(heard(frames, PARTNER), partner[: 640 * len(frames)])


def test_an_unstamped_voice_that_begins_a_little_later_keeps_nobody_waiting():
    """What it said before its first packet cannot be on its way."""
    events = packets(voice(2), SELF, 160, stamped=False)
    events += packets(voice(2, 1), PARTNER, 160, delay=lambda i: MS // 5, stamped=False)
    _, frames, given_out = play(events)
    assert_consecutive(frames)
    late = given_out - np.array([frame.stamp_ns + FRAME_NS for frame in frames])
    assert late[0] <= 31 * MS  # the first 60 ms tell where the packets lie
    assert late[1:].max() <= MS


def test_unstamped_packets_with_jitter_stay_paired():
    minutes = 5
    rng = np.random.default_rng(3)
    own, partner = (pulses(minutes * 60, ppm) for ppm in (200.0, 0.0))
    events = []
    for samples, party, ppm in ((own, SELF, 200.0), (partner, PARTNER, 0.0)):
        stream = packets(samples, party, 640, ppm=ppm, stamped=False, delay=lambda i: rng.uniform(-60, 60) * MS)
        # A stream without stamps arrives in order: what overtakes waits for the one before.
        arrivals = np.maximum.accumulate([arrival for arrival, *_ in stream])
        events += [(int(a) + i, *rest) for i, (a, (_, *rest)) in enumerate(zip(arrivals, stream, strict=True))]
    _, frames, _ = play(events)
    apart = pulse_times(heard(frames)) - pulse_times(heard(frames, PARTNER))
    settled = apart[30:]
    assert np.isfinite(settled).mean() > 0.95
    assert np.nanpercentile(np.abs(settled), 95) < 10


@pytest.mark.parametrize("leap_s", [-7, 5, 3600])
def test_stamps_that_leap_are_told_and_not_followed(leap_s):
    own = voice(6)
    events = [
        (
            arrival,
            party,
            AudioChunk(chunk.stamp_ns + leap_s * SECOND * (i >= 150), 16_000, chunk.samples),
        )
        for i, (arrival, party, chunk) in enumerate(packets(own, SELF, 320))
    ]
    pairer, frames, _ = play(events + packets(own, PARTNER, 320))
    assert_consecutive(frames)
    assert np.array_equal(heard(frames, PARTNER), own)
    assert np.array_equal(heard(frames)[-40_000:], own[-40_000:])
    health = pairer.health()[SELF]
    assert health["re_anchored"] == 1 and f"leapt by {leap_s:+.1f} s" in health["message"]


@pytest.mark.parametrize("off_s", [-1_790_000_000, -30, 30])
def test_stamps_far_from_now_count_from_arrival(off_s):
    own, partner = voice(3), voice(3, 1)
    events = [
        (arrival, party, AudioChunk(chunk.stamp_ns + off_s * SECOND, 16_000, chunk.samples))
        for arrival, party, chunk in packets(own, SELF, 320) + packets(partner, PARTNER, 320)
    ]
    pairer, frames, _ = play(events)
    assert_consecutive(frames)
    assert np.array_equal(heard(frames), own) and np.array_equal(heard(frames, PARTNER), partner)
    assert "counted from arrival instead" in pairer.health()[SELF]["message"]


@pytest.mark.parametrize("leap_s", [-5, 60])
def test_when_the_clock_itself_leaps_frame_numbers_go_on(leap_s):
    own = voice(6)
    leap = leap_s * SECOND
    pairer, frames = FramePairer(), []
    events = packets(own, SELF, 320) + packets(own, PARTNER, 320)
    for arrival, party, chunk in sorted(events, key=lambda event: event[0]):
        by = leap if arrival > T0 + 3 * SECOND else 0
        pairer.push(party, AudioChunk(chunk.stamp_ns + by, 16_000, chunk.samples), arrival + by)
        frames += pairer.poll(arrival + by)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert frames[-1].stamp_ns == pytest.approx(T0 + leap + 6 * SECOND, abs=SECOND)
    assert pairer.health()["clock_jumps"] == 1
    tail = heard(frames)[-16_000:]
    lag = int(np.argmax(np.correlate(own[-20_000:], tail, "valid")))
    assert np.count_nonzero(tail == own[len(own) - 20_000 + lag :][:16_000]) > 15_000


def test_a_stream_that_is_always_too_late_is_anchored_by_arrival_and_heard():
    own, partner = voice(6), voice(6, 1)
    events = packets(own, SELF, 320) + packets(partner, PARTNER, 320, delay=lambda i: 400 * MS)
    pairer, frames, _ = play(events)
    assert all(frame.partner_heard for frame in frames[100:140])
    assert pairer.health()[PARTNER]["re_anchored"] == 1


def test_empty_chunks_and_unknown_parties():
    pairer = FramePairer()
    pairer.push(SELF, AudioChunk(T0, 16_000, np.zeros(0, np.float32)), T0)
    assert pairer.poll(T0 + SECOND) == []
    with pytest.raises(TimarError, match="is no party"):
        pairer.push("neither", AudioChunk(T0, 16_000, voice(0.1)), T0)


def test_memory_is_bounded_when_nobody_takes_the_frames():
    pairer = FramePairer()
    with pytest.raises(TimarError, match="nobody takes the frames"):
        for arrival, party, chunk in packets(voice(100), SELF, 16_000):
            pairer.push(party, chunk, arrival)


wild_stream = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "size": st.integers(160, 1600),
        "lost": st.sets(st.integers(13, 200), max_size=20),
        "doubled": st.sets(st.integers(0, 200), max_size=9),
        "jitter_ms": st.lists(st.integers(-60, 60), min_size=1, max_size=30),
    }
)


def wild_packets(party, seed, size, lost, doubled, jitter_ms):
    """A stream as described (its first 120 ms in time, so that it starts the timeline), and what
    should be heard of it."""
    samples = voice(2, seed)
    expected, events = samples.copy(), []
    jitter = [jitter_ms[i % len(jitter_ms)] * MS * (i * size > 1920) for i in range(200)]
    for i, packet in enumerate(packets(samples, party, size, delay=lambda i: jitter[i])):
        if i in lost:
            expected[i * size : (i + 1) * size] = 0
            continue
        events.append(packet)
        if i in doubled:
            events.append((packet[0] + 3 * MS, *packet[1:]))
    return events, expected


def longest_silence(size, lost):
    """Samples from the end of the last packet before the longest loss until the next packet is whole."""
    run = longest = 0
    for i in range(200):
        run = run + 1 if i in lost else 0
        longest = max(longest, run)
    return (longest + 1) * size


@settings(max_examples=60, deadline=None)
@given(own=wild_stream, partner=wild_stream)
def test_content_is_exact_however_packets_come(own, partner):
    """As long as no voice is missing for three frames, from which on it is not waited for."""
    for stream in (own, partner):
        assume(longest_silence(stream["size"], stream["lost"]) <= 3 * FRAME_SAMPLES)
    own_events, own_voice = wild_packets(SELF, **own)
    partner_events, partner_voice = wild_packets(PARTNER, **partner)
    _, frames, _ = play(own_events + partner_events, until_ns=T0 + 2 * SECOND)
    assert_consecutive(frames)
    assert len(frames) >= 40
    for party, expected in ((SELF, own_voice), (PARTNER, partner_voice)):
        got = heard(frames, party)[: len(expected)]
        assert np.array_equal(got, expected[: len(got)])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_nothing_that_comes_breaks_the_frames(data):
    pairer, frames, now = FramePairer(), [], T0
    for _ in range(data.draw(st.integers(1, 60))):
        now += data.draw(st.integers(-5 * MS, 300 * MS))
        rate = data.draw(st.sampled_from([8_000, 16_000, 16_000, 44_100]))
        off = data.draw(st.sampled_from([0, 0, 0, -20, 500, -500, 5_000, -5_000])) * MS
        stamp = data.draw(st.sampled_from([None, now + off]))
        chunk = AudioChunk(stamp, rate, voice(data.draw(st.integers(0, 200)) / 1000, rate=rate))
        pairer.push(data.draw(st.sampled_from([SELF, PARTNER])), chunk, now)
        frames += pairer.poll(now)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    for frame in frames:
        assert frame.own.shape == frame.partner.shape == (FRAME_SAMPLES,)
        assert frame.own.dtype == frame.partner.dtype == np.float32
    if frames:
        assert_consecutive(frames, frames[0].stamp_ns)


def test_unstamped_sound_that_comes_before_the_simulated_clock_begins_lies_on_its_time():
    """With `use_sim_time` the time is 0 until /clock is heard; the sound may be heard sooner."""
    pairer = FramePairer()
    samples = voice(1.0)
    for number, start in enumerate(range(0, len(samples), 320)):
        now = 0 if number < 2 else T0 + number * 20 * MS
        for party in (SELF, PARTNER):
            pairer.push(party, AudioChunk(None, 16_000, samples[start : start + 320]), now)
        frames = pairer.poll(now)
        assert len(frames) < 10
        assert all(abs(frame.stamp_ns - T0) < 2 * SECOND for frame in frames)
    assert pairer.health()["frames"] > 20
