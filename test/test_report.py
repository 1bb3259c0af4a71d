"""report.html: one page that needs nothing else and shows what was recorded."""

import re
from html.parser import HTMLParser

import pytest
from synthetic_bag import Invented, write_bag

from timar_ros.replay.bag import read_recording
from timar_ros.replay.report import EMBED_BYTES, write_report
from timar_ros.replay.summary import summarise

INVENTED = Invented()
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page refers to, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return read_recording(write_bag(tmp_path_factory.mktemp("recorded") / "bag", INVENTED))


def written(recording, folder, **arguments) -> str:
    path = write_report(recording, summarise(recording), folder / "report.html", **arguments)
    return path.read_text(encoding="utf-8")


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(recording, tmp_path):
    text = written(recording, tmp_path)
    page = Page(text)
    assert page.open == [] and page.references == []
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert len(text) < 5_000_000


def test_page_shows_voices_turns_head_face_and_latency_on_one_axis(recording, tmp_path):
    text = written(recording, tmp_path)
    rows = re.findall(r'<div class="label">(.*?)<small>', text)
    head = ["yaw", "pitch", "roll"]
    face = ["jaw", "smile", "brows", "blinks"]
    assert rows == ["self", "partner", "floor", *head, *face, "latency"]
    assert len(set(re.findall(r'viewBox="(\S+) \S+ (\S+) \S+"', text.split("How old")[0]))) == 1
    assert "prefers-color-scheme: dark" in text


def test_page_tells_figures_goals_inputs_and_policy(recording, tmp_path):
    text = Page(written(recording, tmp_path)).text
    for words in ("Missed: median reaction, p99 reaction", "180 ms", "timar-small", "late packets"):
        assert words in text


def test_small_video_is_part_of_the_page_and_a_large_one_beside_it(recording, tmp_path):
    video = tmp_path / "head.mp4"
    video.write_bytes(b"\0" * 1000)
    references = Page(written(recording, tmp_path)).references
    assert references[0].startswith("data:video/mp4;base64,") and references[1] == "head.mp4"
    video.write_bytes(b"\0" * (EMBED_BYTES + 1))
    assert Page(written(recording, tmp_path)).references == ["head.mp4", "head.mp4"]


def test_page_of_a_poor_recording_says_what_is_missing(tmp_path):
    kept = {"/microphone/audio"}
    every = {
        "/partner/audio",
        "/head/blendshapes",
        "/head/head_pose",
        "/joint_states",
        "/head_controller/joint_trajectory",
        "/simulated_head/command_latency_ms",
        "/self/is_speaking",
        "/partner/is_speaking",
        "/head/floor",
        "/head/turns",
        "/diagnostics",
    }
    bag = write_bag(tmp_path / "bag", INVENTED, without=tuple(every - kept))
    page = Page(written(read_recording(bag), tmp_path))
    assert page.open == []
    assert "nothing was recorded of partner/audio" in page.text
    assert "No goal could be measured" in page.text


def test_text_of_a_recording_cannot_become_markup(recording, tmp_path):
    recording.losses.append("<script>alert(1)</script>")
    try:
        assert "<script>alert" not in written(recording, tmp_path)
    finally:
        recording.losses.pop()
