"""`timar demo`: a two-voice conversation in real time through the real nodes, each a process of its own.

microphone_node (self) ────┐                ┌─ simulated_head ─ joint_states
microphone_node (partner) ─┴─ head_node ────┤
speaker_node                                └─ recorder ─ bag ─ summary.json, report.html, head.mp4
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from timar_ros.graph import LEAD_S, Graph
from timar_ros.robot.profile import RobotProfile
from timar_ros.sound_files import duration_s, voices

# After the last sample: until the head has shown it.
PLAYED_OUT_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--self", dest="own", metavar="WAV", help="voice that the head speaks with (any sound file)")
    parser.add_argument("--partner", metavar="WAV", help="voice of the person in front of the head")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    parser.add_argument("--policy", default="default", help="policy folder: a name under models/ or a path")
    parser.add_argument("--robot", default="generic", help="robot profile: a name under config/robots/ or a path")
    parser.add_argument(
        "--hop-frames",
        type=int,
        default=2,
        help="frames of 40 ms that the policy advances by (1 to 25)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the policy's noise")
    parser.add_argument("--no-video", action="store_true", help="leave out the rendered video")


def run(args: argparse.Namespace) -> int:
    own, partner = voices(args.own, args.partner)
    seconds = max(duration_s(own), duration_s(partner))
    profile = RobotProfile.load(args.robot).taking_trajectories()
    robot = {"robot": args.robot, "command": profile.command.kind}
    out = prepare_folder(args.out)
    print(
        f"playing {own.name} (self) and {partner.name} (partner), {seconds:.0f} s, in real time …",
        flush=True,
    )
    with Graph(out / "logs") as graph:
        graph.start("recorder", "recorder", out=str(out / "bag"))
        graph.start("simulated_head", "simulated_head", face="head", **robot)  # with a jaw, for lips against sound
        graph.start("speaker", "speaker_node")
        graph.start("head", "head_node", policy=args.policy, hop_frames=args.hop_frames, seed=args.seed, **robot)
        graph.wait_until_ready(profile.command.topic)
        start_at = time.time() + LEAD_S
        for party, file in (("self", own), ("partner", partner)):
            remap = {"microphone/audio": "partner/audio"} if party == "partner" else {}
            graph.start(f"microphone_{party}", "microphone_node", remap, file=str(file), start_at=start_at)
        graph.watch(until=start_at + seconds + PLAYED_OUT_S)
    return show_results(out, video=not args.no_video)


def prepare_folder(out: Path) -> Path:
    """An empty folder for the results; only what an earlier demo left there is removed."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("bag", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("summary.json", "report.html", "head.mp4"):
        (out / name).unlink(missing_ok=True)
    return out.resolve()


def show_results(out: Path, video: bool) -> int:
    """Summary, report and video from the bag in `out`; prints the table."""
    from timar_ros.replay import bag, render, report, summary

    recording = bag.read_recording(out / "bag")
    figures = summary.summarise(recording)
    (out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if video:
        render.render_video(recording, out / "head.mp4")
    report.write_report(recording, figures, out / "report.html")
    print(summary.table(figures))
    print(f"\nlook at {out / 'report.html'}" + (f" and {out / 'head.mp4'}" if video else ""))
    return 0
