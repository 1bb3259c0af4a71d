"""What a robot profile says, in words, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.robot.commands import JOINT_ANGLES, joint_angles_class
from timar_ros.robot.description import DescribedJoint, tightened
from timar_ros.robot.profile import AXES, FaceJoint, Joint, RobotProfile

# Degrees and seconds, of people in conversation: a calm head's p99 of speed, the middle of its acceleration.
_CALM_SPEED, _CALM_ACCELERATION = 46.0, 210.0
_LEAST_REACH = 5.0  # deg to one side, about one standard deviation of a lively head
_LONGEST_STOP_S = 0.6
_LEAST_RATE_HZ = 30.0
# rad/s in a URDF beyond which the number stands for "not known".
_PLACEHOLDER_SPEED = 20.0

_MOTIONS = {"yaw": "turns left and right", "pitch": "nods", "roll": "tilts sideways"}
_POSITIVE = {
    "yaw": ("left", "right"),
    "pitch": ("down", "up"),
    "roll": ("to the right shoulder", "to the left shoulder"),
}
_UNIT = {"roll": (1.0, 0.0, 0.0), "pitch": (0.0, 1.0, 0.0), "yaw": (0.0, 0.0, 1.0)}
_MESSAGES = {
    "joint_trajectory": "trajectory_msgs/JointTrajectory, every hop, to a joint_trajectory_controller",
    "forward_command": "std_msgs/Float64MultiArray, {rate:g} times a second, to a forward command controller",
    "joint_angles_with_speed": JOINT_ANGLES.replace("/msg/", "/") + ", {rate:g} times a second, to naoqi_driver",
}
_CONTROLLER_SETTINGS = """\
Settings of its controller, for motion that comes in pieces to be smooth:
  Humble          open_loop_control: true
  Jazzy, Lyrical  interpolate_from_desired_state: true
  all             joints: [{joints}]; cmd_timeout: 0.0 (the default)"""


def explanation(profile: RobotProfile) -> str:
    """What a profile says, in words."""
    command = profile.command
    lines = [
        f"{profile.name}: {profile.description or 'no description'}",
        f"It is sent {_MESSAGES[command.kind].format(rate=command.options.get('rate_hz', 0))},",
        f"on the topic {command.topic}.",
    ]
    if command.kind != "joint_trajectory":
        lines.append(f"The order of its joints there: {', '.join(command.options['order'])}.")
    lines += ["", "The neck, from the base to the head:"]
    lines += [f"  {_joint_in_words(joint)}" for joint in profile.joints]
    missing = [axis for axis in AXES if axis not in {joint.axis for joint in profile.joints}]
    if missing:
        lines.append(
            f"It lacks {' and '.join(missing)}: the other joints take the orientation closest to the one wanted."
        )
    lines.append(
        f"Gaze targets are in the frame {profile.base_frame}; the head turns about "
        f"({', '.join(f'{v:g}' for v in profile.pivot)}) m there."
    )
    if profile.face:
        lines += ["", f"The face is sent {profile.face.command.kind} on {profile.face.command.topic}:"]
        lines += [f"  {_servo_in_words(joint)}" for joint in profile.face.joints]
    if command.kind == "joint_trajectory":
        lines += ["", _CONTROLLER_SETTINGS.format(joints=", ".join(profile.joint_names))]
    return "\n".join(lines)


def findings(profile: RobotProfile, described: Mapping[str, DescribedJoint]) -> list[str]:
    """What is wrong with a profile, or at least surprising, in words; `described` is its URDF's, empty without one."""
    found = [fault for joint in profile.joints for fault in _joint_findings(joint)]
    command = profile.command
    if command.topic.startswith("/"):
        found.append(f"the topic {command.topic} is absolute: a namespace will not reach it; leave out the first /")
    if command.options.get("rate_hz", np.inf) < _LEAST_RATE_HZ and command.kind == "forward_command":
        found.append(
            f"rate_hz is {command.options['rate_hz']:g}: the head moves in steps, as nothing smooths between; use 100"
        )
    if command.kind == "joint_angles_with_speed":
        try:
            joint_angles_class()
        except TimarError as error:
            found.append(f"on this machine: {error}")
    for servo in profile.face.joints if profile.face else ():
        found += _servo_findings(servo)
    if described:
        found += tightened(profile, described)[2] + _axis_findings(profile, described)
    return found


def _joint_in_words(joint: Joint) -> str:
    limits = joint.limits
    positive, negative = _POSITIVE[joint.axis][:: 1 if joint.sign > 0 else -1]
    up, down = math.degrees(limits.upper - joint.offset), math.degrees(joint.offset - limits.lower)
    gain = f", {joint.gain:g} times as far as the motion" if joint.gain != 1.0 else ""
    offset = f"; it looks straight ahead at {math.degrees(joint.offset):.1f} deg" if joint.offset else ""
    return (
        f"{joint.name} {_MOTIONS[joint.axis]}{gain}: "
        f"{up:.0f} deg {positive} (positive), {down:.0f} deg {negative}{offset}; "
        f"up to {math.degrees(limits.velocity):.0f} deg/s, {math.degrees(limits.acceleration):.0f} deg/s^2, "
        f"{math.degrees(limits.jerk):.0f} deg/s^3"
    )


def _servo_in_words(joint: FaceJoint) -> str:
    shapes = ", ".join(f"{name} {weight:+g} rad" for name, weight in joint.blendshapes.items())
    return f"{joint.name} rests at {joint.rest:g} rad, follows {shapes}"


def _joint_findings(joint: Joint) -> list[str]:
    limits, found = joint.limits, []
    for bound, side in ((limits.lower, "min"), (limits.upper, "max")):
        reach = math.degrees(abs(bound - joint.offset))
        if reach < _LEAST_REACH:
            found.append(
                f"{joint.name}: only {reach:.1f} deg from straight ahead to its {side}; motion to that side is cut. "
                "Is offset where the head looks straight ahead, and are the limits in rad?"
            )
    if limits.upper - limits.lower > 2 * math.pi:
        found.append(f"{joint.name}: a range of more than one turn; are the limits in rad, not degrees?")
    if math.degrees(limits.velocity) < _CALM_SPEED:
        found.append(
            f"{joint.name}: {math.degrees(limits.velocity):.0f} deg/s is slower than a calm person's head "
            f"({_CALM_SPEED:g} deg/s): gestures come out smaller; is it in rad/s?"
        )
    if math.degrees(limits.acceleration) < _CALM_ACCELERATION:
        found.append(
            f"{joint.name}: {math.degrees(limits.acceleration):.0f} deg/s^2 is less than a calm person's head needs "
            f"({_CALM_ACCELERATION:g} deg/s^2): nods come out smaller; is it in rad/s^2?"
        )
    stop_s = limits.velocity / limits.acceleration + limits.acceleration / limits.jerk
    if stop_s > _LONGEST_STOP_S:
        found.append(f"{joint.name}: it takes {stop_s:.1f} s to stop from full speed; give more acceleration or jerk")
    return found


def _servo_findings(servo: FaceJoint) -> list[str]:
    cut = [
        name
        for name, weight in servo.blendshapes.items()
        if not servo.limits.lower <= servo.rest + weight <= servo.limits.upper
    ]
    return [f"{servo.name}: at full weight {', '.join(cut)} would leave its range and is cut"] if cut else []


def _axis_findings(profile: RobotProfile, described: Mapping[str, DescribedJoint]) -> list[str]:
    found = []
    for joint in profile.joints:
        if joint.name not in described:
            continue
        axis, limits = described[joint.name].axis, described[joint.name].limits
        along = float(np.dot(axis, _UNIT[joint.axis])) * joint.sign
        if along < -0.7:
            found.append(
                f"{joint.name}: in the URDF it turns the other way round; make sign {-joint.sign:g} (unless the URDF's "
                "root link looks backwards)"
            )
        elif along < 0.7:
            nearest = max(AXES, key=lambda name: abs(float(np.dot(axis, _UNIT[name]))))
            found.append(f"{joint.name}: in the URDF its axis is {nearest}, not {joint.axis} (seen from the root link)")
        if math.isfinite(limits.velocity) and limits.velocity > _PLACEHOLDER_SPEED:
            found.append(f"{joint.name}: the URDF's velocity of {limits.velocity:g} rad/s is no limit, but not known")
    return found
