"""`timar talk`: type a sentence, see the head say it. The real nodes run, each a process of its own.

keyboard ─ synthesiser_node ─ head_node ─┬─ simulated_head
microphone_node (partner, if asked for) ─┘─ speaker_node
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from timar_ros.demo import prepare_folder, show_results
from timar_ros.errors import TimarError
from timar_ros.graph import Graph
from timar_ros.stream.synthesis import ALL_SAID, AUTO, ENGINES, Synthesiser, sentences

# After the last sentence: until it was heard and the mouth is closed again.
HEARD_OUT_S = 1.5
BETWEEN_S = 0.8
SAID_TIMEOUT_S = 30.0
LOOK_S = 0.05
VOICE_TOPIC = "/head/voice"
LOOKAHEAD_MS = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--say", nargs="+", metavar="SENTENCE", help="say this and end, instead of what is typed")
    parser.add_argument("--engine", default=AUTO, choices=(AUTO, *ENGINES), help="speech synthesiser")
    parser.add_argument("--voice", default="", help="its voice: a name, for piper the path of an .onnx file")
    parser.add_argument("--microphone", action="store_true", help="listen to you as the partner, too")
    parser.add_argument("--policy", default="default", help="policy folder: a name under models/ or a path")
    parser.add_argument(
        "--look-ahead",
        type=int,
        default=LOOKAHEAD_MS,
        metavar="MS",
        help="by how much earlier than it is spoken the policy hears what is said, in steps of 40; 0: not",
    )
    parser.add_argument("--out", type=Path, help="record it and leave bag, report and video in this folder")
    parser.add_argument("--port", type=int, default=8080, help="port of the browser view, or the next free one")


def run(args: argparse.Namespace) -> int:
    Synthesiser(args.engine, args.voice)("Hello.")  # refuses here what is not installed, or no voice of it
    lines = [" ".join(line.split()) for line in args.say or ()]
    if wordless := [line for line in lines if not sentences(line)]:
        raise TimarError(f"there is no word in {wordless[0]!r}; give a sentence to say")
    with tempfile.TemporaryDirectory(prefix="timar_talk_") as folder:
        out = prepare_folder(args.out) if args.out else Path(folder)
        with Graph(out / "logs") as graph:
            if args.out:
                graph.start("recorder", "recorder", out=str(out / "bag"))
            keyboard = _start(graph, args)
            if lines:
                _say_all(graph, keyboard, lines)
            else:
                _take_lines(graph, keyboard)
        return show_results(out, video=True) if args.out else 0


def _start(graph: Graph, args: argparse.Namespace) -> subprocess.Popen:
    """The nodes; returns the synthesiser's process, which says what is written to it."""
    view = importlib.util.find_spec("viser") is not None
    if view:
        graph.start("view", "view_node", port=args.port)
    graph.start("simulated_head", "simulated_head", face="head")
    graph.start("speaker", "speaker_node", {"microphone/audio": VOICE_TOPIC})
    graph.start("head", "head_node", policy=args.policy, own_voice="queued", lookahead_ms=args.look_ahead)
    if args.microphone:
        graph.start("microphone", "microphone_node", {"microphone/audio": "partner/audio"})
    ended = threading.Event()
    if view:
        print(f"look at {graph.wait_for('view', 'the head is at ', ended)}", flush=True)
    graph.wait_for("head", "active: ", ended)
    keyboard = graph.start(
        "synthesiser", "synthesiser_node", typed=True, keyboard=True, engine=args.engine, voice=args.voice
    )
    graph.wait_for("synthesiser", "speaking with ", ended)
    return keyboard


def _type(keyboard: subprocess.Popen, line: str) -> None:
    try:
        keyboard.stdin.write(line + "\n")
        keyboard.stdin.flush()
    except BrokenPipeError as error:
        raise TimarError("the synthesiser ended; what it said is told above or in its log") from error


class _Speech:
    """What the synthesiser has said, as its log tells.

    Attributes:
        until: when all of it is heard, s since the epoch.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known = 0
        self.until = 0.0

    def look(self) -> int:
        """How many sentences were said by now; to be called often.

        Raises:
            TimarError: a node ended by itself.
        """
        self._graph.check()
        said = re.findall(r"said .*: (\d+\.\d) s$", self._graph.log("synthesiser"), re.MULTILINE)
        for seconds in said[self._known :]:
            self.until = max(self.until, time.time()) + float(seconds)
        self._known = len(said)
        return self._known


def _say_all(graph: Graph, keyboard: subprocess.Popen, lines: list[str]) -> None:
    """Say the sentences one after the other, each when the one before it was heard."""
    speech = _Speech(graph)
    for number, line in enumerate(lines):
        print(f"saying: {line}", flush=True)
        begun, expected = time.time(), speech.look() + len(sentences(line))
        _type(keyboard, line)
        rest_s = HEARD_OUT_S if number == len(lines) - 1 else BETWEEN_S
        while (lacking := speech.look() < expected) or time.time() < speech.until + rest_s:
            if lacking and time.time() > max(begun, speech.until) + SAID_TIMEOUT_S:
                raise TimarError(f"{line!r} was not said within {SAID_TIMEOUT_S:.0f} s; try another text or engine")
            time.sleep(LOOK_S)


def _take_lines(graph: Graph, keyboard: subprocess.Popen) -> None:
    """Say what is typed until its end, and wait until that was heard; Ctrl-C ends at once."""
    print(
        "Type a sentence and press Enter; an empty line breaks off; Ctrl-D ends when all was heard, Ctrl-C at once.",
        flush=True,
    )
    speech = _Speech(graph)
    try:
        for line in _typed_lines(speech.look):
            _type(keyboard, line)
            if not line.strip():
                speech.until = time.time()
        keyboard.stdin.close()
        all_said = False
        while not all_said or time.time() < speech.until + HEARD_OUT_S:
            time.sleep(LOOK_S)
            all_said = ALL_SAID in graph.log("synthesiser")
            speech.look()
    except KeyboardInterrupt:
        print()


def _typed_lines(meanwhile: Callable[[], object]) -> Iterator[str]:
    """The lines of the keyboard, or of what is piped in; calls `meanwhile` again and again while it waits for them."""
    held = b""
    while True:
        meanwhile()
        if not select.select([sys.stdin], [], [], LOOK_S)[0]:
            continue
        part = os.read(sys.stdin.fileno(), 4096)
        *lines, held = (held + part).split(b"\n")
        if not part and held:
            lines = [held]
        yield from (line.decode(errors="replace") for line in lines)
        if not part:
            return
