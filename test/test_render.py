"""The drawn head shows each channel, and the video shows and sounds as a person perceives it."""

import av
import numpy as np
import pytest
from synthetic_bag import Invented, write_bag

from timar_ros.channels import ARKIT_BLENDSHAPES, CHANNELS, MOTION_DIM
from timar_ros.errors import TimarError
from timar_ros.replay.bag import read_recording
from timar_ros.replay.render import HeadRenderer, motion_shown, render_video, video_span_ns

INVENTED = Invented(seconds=4.0)


def motion(**weights: float) -> np.ndarray:
    """A motion vector with some channels set, by name; "Smile" and the like set both sides."""
    vector = np.zeros(MOTION_DIM)
    for name, value in weights.items():
        names = [c for c in CHANNELS if c in (name, f"{name}Left", f"{name}Right")]
        assert names
        for channel in names:
            vector[CHANNELS.index(channel)] = value
    return vector


@pytest.fixture(scope="module")
def renderer():
    return HeadRenderer((320, 240))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return read_recording(write_bag(tmp_path_factory.mktemp("recorded") / "bag", INVENTED))


@pytest.fixture(scope="module")
def video(recording, tmp_path_factory):
    return render_video(recording, tmp_path_factory.mktemp("video") / "head.mp4")


def test_picture_has_the_size_asked_for(renderer):
    picture = renderer.draw(motion())
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8


# A jaw that is pushed towards the camera.
UNSEEN = {"jawForward"}


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c not in UNSEEN])
def test_every_channel_can_be_seen(renderer, channel):
    context = {"jawOpen": 0.5} if channel in ("jawLeft", "jawRight", "mouthClose") else {}
    still = renderer.draw(motion(**context)).astype(int)
    value = 0.3 if channel.startswith("head") else 1.0
    moved = renderer.draw(motion(**context, **{channel: value})).astype(int)
    assert (np.abs(moved - still).sum(axis=2) > 60).sum() >= 8


def test_closed_eyes_hide_the_white_of_the_eye(renderer):
    def bright(picture):
        return (picture[70:150, 110:210].min(axis=2) > 225).sum()

    opened = bright(renderer.draw(motion()))
    assert bright(renderer.draw(motion(eyeBlink=1.0))) < 0.2 * opened
    assert bright(renderer.draw(motion(eyeWide=1.0))) > opened


def test_open_jaw_shows_more_of_the_mouth(renderer):
    def inside(picture):
        red, green, blue = np.moveaxis(picture[150:230, 100:220].astype(int), -1, 0)
        return ((red > 70) & (red < 130) & (green < 50) & (blue < 60)).sum()

    sizes = [inside(renderer.draw(motion(jawOpen=w))) for w in (0.0, 0.3, 0.6, 1.0)]
    assert sizes[0] == 0 and sizes == sorted(sizes) and sizes[3] > 2 * sizes[1] > 0
    assert inside(renderer.draw(motion(jawOpen=0.6, mouthClose=0.6))) == 0


def middle(picture: np.ndarray) -> np.ndarray:
    """Where the dark face plate lies: mean (x, y) of its pixels."""
    plate = (np.abs(picture.astype(int) - (25, 35, 46)).max(axis=2) < 6).nonzero()
    return np.array([plate[1].mean(), plate[0].mean()])


def antenna(picture: np.ndarray) -> float:
    """Mean x of the blue ball on top."""
    return (np.abs(picture.astype(int) - (63, 184, 214)).max(axis=2) < 6).nonzero()[1].mean()


def test_head_turns_as_rep_103_says_seen_from_the_front(renderer):
    still = middle(renderer.draw(motion()))
    left, right = (middle(renderer.draw(motion(headYaw=a))) for a in (0.4, -0.4))
    assert left[0] > still[0] + 5 and right[0] < still[0] - 5  # its left is on our right
    down, up = (middle(renderer.draw(motion(headPitch=a))) for a in (0.3, -0.3))
    assert down[1] > still[1] + 4 and up[1] < still[1] - 4
    upright, tilted = (renderer.draw(motion(headRoll=a))[:50] for a in (0.0, 0.4))
    assert antenna(tilted) < antenna(upright) - 10  # to its right shoulder: to our left


def test_numbers_that_are_none_do_no_harm(renderer):
    odd = motion(jawOpen=7.0, eyeBlinkLeft=-3.0)
    odd[CHANNELS.index("headYaw")] = np.nan
    assert np.array_equal(renderer.draw(odd), renderer.draw(motion(jawOpen=1.0)))
    with pytest.raises(TimarError, match="expected \\(55,\\)"):
        renderer.draw(np.zeros(52))
    with pytest.raises(TimarError, match="at least 64x64"):
        HeadRenderer((10, 10))


def test_motion_is_shown_when_its_message_came_out(recording):
    start_ns, _ = video_span_ns(recording)
    times_ns = start_ns + 40_000_000 * np.arange(60, dtype=np.int64)
    shown = motion_shown(recording, times_ns)
    due_s = (times_ns - recording.start_ns) / 1e9 - INVENTED.playout_ms / 1e3
    # Messages come up to 1 ms after they are due.
    assert np.abs(shown[5:, :3] - INVENTED.rpy(due_s)[5:]).max() < 2e-3
    jaw = 3 + ARKIT_BLENDSHAPES.index("jawOpen")
    wanted = [INVENTED.face(t)[jaw - 3] for t in due_s]
    assert np.abs(shown[5:, jaw] - wanted[5:]).max() < 2e-2


def decoded(path):
    """(frames uint8 [n, h, w, 3], sound float32 [2, n], its rate) of a video."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        pieces = list(container.decode(audio=0))
        rate = pieces[0].sample_rate
        sound = np.concatenate([piece.to_ndarray() for piece in pieces], axis=1)
    return np.stack(frames), sound, rate


def test_video_is_h264_and_aac_of_the_right_length(recording, video):
    with av.open(str(video)) as container:
        names = [stream.codec_context.name for stream in container.streams]
        assert names == ["h264", "aac"]
        assert container.streams.video[0].average_rate == 25
        start_ns, end_ns = video_span_ns(recording)
        assert container.duration / 1e6 == pytest.approx((end_ns - start_ns) / 1e9, abs=0.1)
    assert video.stat().st_size < 3_000_000 * INVENTED.seconds / 60 * 1.5


def test_own_voice_sounds_with_its_face_and_the_partner_when_captured(recording, video):
    _, sound, rate = decoded(video)
    start_ns, _ = video_span_ns(recording)
    for channel, party, delay_ms in ((0, "self", INVENTED.playout_ms), (1, "partner", 0.0)):
        loud = np.abs(sound[channel]) > 0.05
        first_s = loud.argmax() / rate
        said = np.abs(INVENTED.voice(party)) > 0.05 * 32768
        lead_s = (start_ns - recording.start_ns) / 1e9
        expected_s = said.argmax() / 16_000 + delay_ms / 1e3 - lead_s
        assert first_s == pytest.approx(expected_s, abs=0.02)


def test_strip_shows_the_voices_moving_past(video):
    frames, _, _ = decoded(video)
    strip = frames[:, -112:, 80:].astype(int)
    assert np.abs(strip[40] - strip[30]).mean() > 3.0


def test_recording_without_motion_is_refused_with_a_sentence(tmp_path):
    bag = write_bag(tmp_path / "bag", INVENTED, without=("/head/blendshapes", "/head/head_pose"))
    with pytest.raises(TimarError, match="neither blendshapes nor head poses"):
        render_video(read_recording(bag), tmp_path / "head.mp4")
    with pytest.raises(TimarError, match="even numbers"):
        render_video(read_recording(bag), tmp_path / "head.mp4", size=(641, 480))
