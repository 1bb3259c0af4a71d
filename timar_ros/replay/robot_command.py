"""`timar robot`: what a robot profile says in words, what is wrong with it, and what it makes of a motion."""

from __future__ import annotations

import argparse
from pathlib import Path

from timar_ros.channels import HEAD_CHANNELS
from timar_ros.model.checkpoint import load_policy
from timar_ros.replay.offline import hear, move
from timar_ros.replay.robot_motion import lively_head, show_on
from timar_ros.resources import share_path
from timar_ros.robot.check import explanation, findings
from timar_ros.robot.description import read_description_file
from timar_ros.robot.profile import RobotProfile, profile_names
from timar_ros.sound_files import read_voice
from timar_ros.stream.steppers import make_stepper

LIVELY_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="name the profiles that come with the package")
    check = actions.add_parser("check", help="explain a profile and find what is wrong with it")
    check.add_argument("profile", metavar="PROFILE", help="a name under config/robots or the path of a YAML file")
    check.add_argument("--urdf", type=Path, help="the robot's URDF, to compare names, axes and limits with")
    table = actions.add_parser("table", help="play a motion on every robot: what is lost to axes and limits")
    table.add_argument("--policy", default="default", help="policy that moves to the conversation of the demo")


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        for name in profile_names():
            print(f"{name:12}  {RobotProfile.load(name).description}")
        return 0
    if args.action == "table":
        print(loss_table(args.policy))
        return 0
    profile = RobotProfile.load(args.profile)
    described = read_description_file(args.urdf) if args.urdf else {}
    print(explanation(profile))
    faults = findings(profile, described)
    print("\nNothing wrong was found." if not faults else "\nTo be looked at:")
    for fault in faults:
        print(f"  - {fault}")
    return 1 if faults else 0


def loss_table(policy: str) -> str:
    """Markdown: share of motion lost to missing axes and to limits, for every profile and two motions."""
    voices = [read_voice(share_path("demo", f"{party}.ogg")) for party in ("self", "partner")]
    motion = move(make_stepper(load_policy(policy)), hear(*voices))
    motions = {"demo": motion[:, : len(HEAD_CHANNELS)], "lively": lively_head(LIVELY_S)}
    rows = [
        "| robot | demo: axes | demo: limits | lively: axes | lively: limits | refused | beyond limits |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in profile_names():
        shown = {what: show_on(RobotProfile.load(name), rpy) for what, rpy in motions.items()}
        shares = " | ".join(f"{share:.1%}" for s in shown.values() for share in (s.missing_axes, s.limits))
        refusals = sum(s.refusals for s in shown.values())
        rows.append(f"| {name} | {shares} | {refusals} | {sum(s.violations for s in shown.values())} |")
    return "\n".join(rows)
