"""The running graph: the demo at hops of one and two frames, from a process's start to its first command, and what
`timar evaluate` makes of the demo's bags.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from timar_ros import demo
from timar_ros.bench.timing import write_result
from timar_ros.errors import TimarError
from timar_ros.replay.bag import read_recording
from timar_ros.replay.clips import find_clips
from timar_ros.replay.comparison import compare
from timar_ros.replay.trial import Settings, Variant
from timar_ros.robot.profile import RobotProfile

FIGURES = ("latency_ms", "reaction_ms", "motion_delay_ms", "deadline_misses", "frames", "commands", "rss_mb")
LOAD_TIMEOUT_S = 60.0
PACKET_SAMPLES = 640
BAGS = 6


def demo_figures(out: Path, hop_frames: int) -> dict[str, object]:
    """The demo's summary at a hop; deadline misses as a share of hops, too, and the rate of joint states."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    sys.stdout.flush()
    demo.run(parser.parse_args(["--out", str(out), "--hop-frames", str(hop_frames), "--no-video"]))
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    misses = summary["deadline_misses"] / max(summary["frames"] / hop_frames, 1)
    told_ns = read_recording(out / "bag").joint_states.times_ns
    rate_hz = 1e9 * (len(told_ns) - 1) / (told_ns[-1] - told_ns[0])
    return {name: summary[name] for name in FIGURES} | {
        "deadline_misses_percent": round(100 * misses, 2),
        "joint_states_hz": round(rate_hz, 1),
    }


def evaluation_speed(bag: Path) -> dict[str, object]:
    """Several bags through `timar evaluate`'s code, one process on each core; reading and metrics are in it."""
    processes = len(os.sched_getaffinity(0))
    sources = [replace(find_clips(bag)[0], name=f"copy {i}") for i in range(BAGS)]
    comparison = compare(sources, [Variant()], Settings(), processes)
    return {"bags": BAGS, "processes": processes, "times_realtime": round(comparison.times_realtime or 0.0, 2)}


def load_s() -> float:
    """From the start of the head node's process to its first command; both voices are heard, and the joints felt."""
    import rclpy
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Int16MultiArray
    from trajectory_msgs.msg import JointTrajectory

    rclpy.init()
    node = rclpy.create_node("bench")
    commands: list[JointTrajectory] = []
    node.create_subscription(JointTrajectory, "head_controller/joint_trajectory", commands.append, 10)
    topics = [node.create_publisher(Int16MultiArray, topic, 10) for topic in ("microphone/audio", "partner/audio")]
    silence = Int16MultiArray(data=[0] * PACKET_SAMPLES)
    joints = node.create_publisher(JointState, "joint_states", 10)
    straight = JointState(name=list(RobotProfile.load("generic").joint_names), position=[0.0, 0.0, 0.0])
    node.create_timer(PACKET_SAMPLES / 16000, lambda: [topic.publish(silence) for topic in topics])
    node.create_timer(0.02, lambda: joints.publish(straight))
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "timar_ros.nodes.head_node"], stdout=subprocess.DEVNULL)
    try:
        while not commands:
            rclpy.spin_once(node, timeout_sec=0.01)
            if time.monotonic() - start > LOAD_TIMEOUT_S or process.poll() is not None:
                raise TimarError("the head node gave no command; start it by hand to see why")
        return round(time.monotonic() - start, 2)
    finally:
        process.terminate()
        process.wait()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        figures = {f"hop_of_{frames}": demo_figures(Path(folder, str(frames)), frames) for frames in (1, 2)}
        evaluated = evaluation_speed(Path(folder, "2", "bag"))
    write_result({"demo": figures, "evaluate": evaluated, "default": {"load_s": min(load_s() for _ in range(2))}})
