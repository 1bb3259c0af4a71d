"""`timar view`: the head in a browser, live in a conversation that goes on and on, or from a bag.

Live, the same processes run as in `timar demo`, and `view_node` with the page in place of the recorder:

microphone_node (self) ────┐
microphone_node (partner) ─┴─ head_node ─ simulated_head ─ view_node ─ http://127.0.0.1:8080
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from timar_ros.errors import TimarError
from timar_ros.graph import LEAD_S, Graph
from timar_ros.robot.description import read_description_file
from timar_ros.robot.profile import RobotProfile
from timar_ros.sound_files import duration_s, voices

PAUSE_S = 2.0
"""Silence before the conversation begins again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bag", type=Path, help="show a recorded conversation (a rosbag2 folder) instead")
    parser.add_argument("--self", dest="own", metavar="WAV", help="voice that the head speaks with (any sound file)")
    parser.add_argument("--partner", metavar="WAV", help="voice of the person in front of the head")
    parser.add_argument("--policy", default="default", help="policy folder: a name under models/ or a path")
    parser.add_argument("--robot", default="generic", help="robot profile: a name under config/robots/ or a path")
    parser.add_argument("--host", default="127.0.0.1", help="where the page is served; 0.0.0.0: on all networks")
    parser.add_argument("--port", type=int, default=8080, help="the page's port, or the next free one")
    parser.add_argument("--urdf", type=Path, help="robot to show; default: the head that comes with the package")
    parser.add_argument("--face", default="head", help="face map of that robot: a name under config/faces/ or a path")


def run(args: argparse.Namespace) -> int:
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: ended.set())
    try:
        if args.bag is not None:
            return show_bag(args, ended)
        return show_conversation(args, ended)
    finally:
        signal.signal(signal.SIGINT, before)


def show_bag(args: argparse.Namespace, ended: threading.Event) -> int:
    """Serve a bag until `ended`."""
    from timar_ros.replay.bag import read_recording
    from timar_ros.robot.face_map import FaceMap
    from timar_ros.view.bag_playback import BagPlayback
    from timar_ros.view.page import RATE_HZ, Page

    recording = read_recording(args.bag)
    if args.urdf and recording.trajectories:
        assert_shows(args.urdf, recording.trajectories.names, "the recorded head")
    playback = BagPlayback(recording, FaceMap.load(args.face), time.monotonic, args.urdf is not None)
    page = Page(playback, args.host, args.port, args.urdf)
    try:
        page.add_bag_controls(playback)
        print(f"{args.bag}, {playback.duration_s:.0f} s, is at {page.address} (Ctrl-C ends it)", flush=True)
        while not ended.wait(1.0 / RATE_HZ):
            page.update()
    finally:
        page.close()
    return 0


def show_conversation(args: argparse.Namespace, ended: threading.Event) -> int:
    """Run the graph with the page until `ended`."""
    own, partner = voices(args.own, args.partner)
    profile = RobotProfile.load(args.robot).taking_trajectories()
    if args.urdf:
        assert_shows(args.urdf, profile.joint_names, f"robot {profile.name}")
    robot = {"robot": args.robot, "command": profile.command.kind}
    with tempfile.TemporaryDirectory(prefix="timar_view_") as folder:
        files = equally_long({"self": own, "partner": partner}, Path(folder))
        with Graph(Path(folder) / "logs") as graph:
            urdf = {"urdf": str(args.urdf.resolve())} if args.urdf else {}
            graph.start("view", "view_node", host=args.host, port=args.port, face=args.face, **urdf)
            graph.start("simulated_head", "simulated_head", **robot)
            graph.start("head", "head_node", policy=args.policy, **robot)
            address = graph.wait_for("view", "the head is at ", ended)
            graph.wait_for("head", "active: ", ended)
            if not ended.is_set():
                start_at = time.time() + LEAD_S
                for party, file in files.items():
                    remap = {"microphone/audio": "partner/audio"} if party == "partner" else {}
                    graph.start(
                        f"microphone_{party}", "microphone_node", remap, file=str(file), start_at=start_at, loop=True
                    )
                print(f"{own.name} (self) and {partner.name} (partner), again and again: look at {address}")
                print(f"Its topics are in ROS_DOMAIN_ID={graph.domain}. Ctrl-C ends it all.", flush=True)
            while not ended.wait(0.2):
                graph.check()
    return 0


def assert_shows(urdf: Path, joints: Sequence[str], whose: str) -> None:
    """Raises TimarError where a URDF lacks one of a neck's joints: it would stand still."""
    described = read_description_file(urdf)
    missing = [name for name in joints if name not in described]
    if missing:
        raise TimarError(
            f"{urdf} has no joint {', '.join(missing)}, which {whose} turns; expected that robot's URDF; "
            "give it (--robot says which robot takes part in a live conversation)"
        )


def equally_long(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    """Copies of sound files, as WAV, that end together with a pause: so they stay together when they are looped.

    Raises:
        TimarError: one of them is not there, is no sound file, or empty.
    """
    seconds = max(duration_s(file) for file in files.values()) + PAUSE_S
    copies = {}
    for party, file in files.items():
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        length = round(seconds * rate)
        padded = np.zeros((length, samples.shape[1]), np.float32)
        padded[: len(samples)] = samples[:length]
        copies[party] = folder / f"{party}.wav"
        try:
            soundfile.write(copies[party], padded, rate)
        except (OSError, soundfile.LibsndfileError) as error:
            raise TimarError(f"{copies[party]} cannot be written ({error}); make room in {folder.parent}") from error
    return copies
