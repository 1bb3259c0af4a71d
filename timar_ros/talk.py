"""`timar talk`: type a sentence, see the head say it. The real nodes run, each a process of its own.

keyboard ─ synthesiser_node ─ head_node ─┬─ simulated_head
microphone_node (partner, if asked for) ─┘─ speaker_node
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from timar_ros.demo import Graph, prepare_folder, show_results
from timar_ros.errors import TimarError
from timar_ros.stream.synthesis import AUTO, ENGINES, Synthesiser

# After the last sentence: until it was heard and the mouth is closed again.
HEARD_OUT_S = 1.5
BETWEEN_S = 0.8
SAID_TIMEOUT_S = 30.0
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
    Synthesiser(args.engine, args.voice)  # refuses here what is not installed
    with tempfile.TemporaryDirectory(prefix="timar_talk_") as folder:
        out = prepare_folder(args.out) if args.out else Path(folder)
        with Graph(out / "logs") as graph:
            if args.out:
                graph.start("recorder", "recorder", out=str(out / "bag"))
            keyboard = _start(graph, args)
            if args.say:
                _say_all(graph, keyboard, args.say)
            else:
                _take_lines(graph, keyboard)
        return show_results(out, video=True, topics={"self_audio": VOICE_TOPIC}) if args.out else 0


def _start(graph: Graph, args: argparse.Namespace) -> subprocess.Popen:
    """The nodes; returns the synthesiser's process, which says what is written to it."""
    view = importlib.util.find_spec("timar_ros.nodes.view_node") is not None
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


def _say_all(graph: Graph, keyboard: subprocess.Popen, lines: list[str]) -> None:
    """Say the sentences one after the other, each when the one before it was heard."""
    for number, line in enumerate(lines):
        before, begun = len(_said(graph)), time.time()
        print(f"saying: {line}", flush=True)
        _type(keyboard, line)
        rest_s = HEARD_OUT_S if number == len(lines) - 1 else BETWEEN_S
        heard_out = begun + SAID_TIMEOUT_S
        while time.time() < heard_out:
            graph.check()
            time.sleep(0.05)
            if said := _said(graph)[before:]:
                heard_out = begun + sum(said) + rest_s
            else:
                begun += 0.05
        if not _said(graph)[before:]:
            raise TimarError(f"{line!r} was not said within {SAID_TIMEOUT_S:.0f} s; try another text or engine")


def _said(graph: Graph) -> list[float]:
    """Lengths in s of all sentences said so far, as the synthesiser tells them."""
    return [float(seconds) for seconds in re.findall(r"said .*: (\d+\.\d) s$", graph.log("synthesiser"), re.MULTILINE)]


def _take_lines(graph: Graph, keyboard: subprocess.Popen) -> None:
    print("Type a sentence and press Enter; an empty line breaks off; Ctrl-D ends.", flush=True)
    try:
        for line in sys.stdin:
            graph.check()
            _type(keyboard, line.rstrip("\n"))
    except KeyboardInterrupt:
        print()
