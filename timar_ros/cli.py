"""`timar COMMAND`: each command is a module with `add_arguments(parser)` and `run(args) -> exit code`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

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
    "generate": ("timar_ros.learn.generate", "make dialogues of two voices and heads to train on"),
    "hearing": ("timar_ros.replay.hearing", "show whether a policy hears both voices"),
    "record": ("timar_ros.nodes.recorder", "record the topics of the running graph into a bag"),
    "replay": ("timar_ros.nodes.replay", "play a bag's sound into the running graph"),
    "robot": ("timar_ros.replay.robot_command", "explain a robot profile, find what is wrong with it"),
    "talk": ("timar_ros.talk", "type a sentence and see the head say it"),
    "train": ("timar_ros.learn.train", "train a policy on dialogues"),
    "view": ("timar_ros.view.command", "show the head in a browser, in a conversation or from a bag"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="timar", description="A social robot's head in conversation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for name, (module, summary) in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary)
        if name in arguments[:1]:  # a command's module may import torch or rclpy: only the one asked for
            importlib.import_module(module).add_arguments(subparser)
    parsed = parser.parse_args(arguments)
    try:
        return importlib.import_module(COMMANDS[parsed.command][0]).run(parsed)
    except TimarError as error:
        print(f"timar {parsed.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
