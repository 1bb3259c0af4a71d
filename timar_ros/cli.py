"""`timar COMMAND`: each command is a module with `add_arguments(parser)` and `run(args) -> exit code`."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from timar_ros import __version__
from timar_ros.errors import TimarError

COMMANDS = {
    "bench": ("timar_ros.bench.command", "time the policy, the engine and the running graph on this machine"),
    "convert": ("timar_ros.convert", "make a policy folder of the published checkpoint"),
    "demo": (
        "timar_ros.demo",
        "play a conversation through the real nodes; leaves a bag, a report and a video",
    ),
    "evaluate": ("timar_ros.replay.evaluate", "score policies on recorded conversations, or finished motion"),
    "echo": ("timar_ros.learn.echo_evaluation", "compare echo cancellers in simulated rooms"),
    "generate": ("timar_ros.dialogues.generate", "make dialogues of two voices and heads to train on"),
    "hearing": ("timar_ros.replay.hearing", "show whether a policy hears both voices"),
    "record": ("timar_ros.nodes.recorder", "record the topics of the running graph into a bag"),
    "replay": ("timar_ros.nodes.replay", "play a bag's sound into the running graph"),
    "robot": ("timar_ros.replay.robot_command", "explain a robot profile, find what is wrong with it"),
    "talk": ("timar_ros.talk", "type a sentence and see the head say it"),
    "train": ("timar_ros.learn.train", "train a policy on dialogues"),
    "view": ("timar_ros.view.command", "show the head in a browser, in a conversation or from a bag"),
}

# Of what comes with ROS, the packages that a command imports first.
ROS_PACKAGES = ("rclpy", "ament_index_python", "rosgraph_msgs", "std_msgs", "sensor_msgs", "geometry_msgs")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ended_by_signals():
            parsed = _parser(arguments).parse_args(arguments)
            return importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
    except KeyboardInterrupt:
        return 130
    except TimarError as error:
        reason = str(error)
    except OSError as error:  # a file or folder that cannot be written, a full disk
        reason = f"{error}; give another place, or make room there"
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("timar_ros"):
            raise
        package = (error.name or str(error)).partition(".")[0]
        reason = f"the Python package {package} is not installed here; {_where_from(package)}"
    print(f"timar {arguments[0]}: {reason}", file=sys.stderr)
    return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="timar", description="A social robot's head in conversation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name in arguments[:1]:  # a command's module may import torch or rclpy: only the one asked for
            importlib.import_module(module).add_arguments(subparser)
    return parser


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let `kill`, a batch system and a terminal that is closed end a command as Ctrl-C does: with what it holds saved
    and its processes stopped. `nohup` keeps its effect.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _where_from(package: str) -> str:
    if package in ROS_PACKAGES:
        return "source ROS (source /opt/ros/$ROS_DISTRO/setup.bash), or use the environment that `make venv` makes"
    return "python3 -m pip install it, or use the environment that `make venv` makes"


if __name__ == "__main__":
    sys.exit(main())
