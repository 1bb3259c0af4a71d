"""The folders as README lists them: who imports whom, and who imports ROS."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from timar_ros.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "timar_ros"
ROS = ("rclpy", "tf2_ros", "launch", "launch_ros")


def imports(file: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str | None:
    """The folder or the file of the package that a module is in."""
    top, _, rest = module.partition(".")
    part = rest.partition(".")[0]
    return part if top == PACKAGE.name and ((PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()) else None


@pytest.fixture(scope="module")
def needs() -> dict[str, set[str]]:
    """Which folders and files of the package each imports."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(part, set()).update(filter(None, map(part_of, imports(file))))
    return {part: others - {part, ""} for part, others in found.items()}


def listed_folders() -> list[str]:
    return re.findall(r"^\| `timar_ros/(\w+)/` \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_readme_lists_every_folder():
    folders = {init.parent.name for init in PACKAGE.glob("*/__init__.py")}
    assert set(listed_folders()) == folders
    assert len(listed_folders()) == len(folders)


def test_a_folder_imports_only_what_stands_above_it_in_readme(needs):
    place = {folder: k for k, folder in enumerate(listed_folders())}
    back = [(part, other) for part in place for other in needs[part] & place.keys() if place[other] >= place[part]]
    assert not back
    assert needs["nodes"] >= {"stream", "robot"}  # the imports are found at all


def test_no_two_parts_of_the_package_need_each_other(needs):
    order = list(TopologicalSorter(needs).static_order())  # raises CycleError, which names them
    assert order.index("channels") < order.index("stream") < order.index("nodes")


def test_only_nodes_import_ros_and_the_bench_that_times_them():
    with_ros = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if any(name.partition(".")[0] in ROS or name.partition(".")[0].endswith("_msgs") for name in imports(file))
    }
    assert with_ros == {"nodes", "bench"}


def test_the_networks_know_no_sound_device_and_no_file_of_a_data_set():
    known = {name.partition(".")[0] for file in (PACKAGE / "model").glob("*.py") for name in imports(file)}
    assert "torch" in known
    assert not known & {"sounddevice", "soundfile", "soxr", "rosbags"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_a_module_with_arguments_and_a_run(command):
    source = (ROOT / COMMANDS[command][0].replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    functions = {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert functions >= {"add_arguments", "run"}


@pytest.mark.parametrize("node", ["recorder", "replay", "simulated_head", "synthesiser_node", "view_node"])
def test_a_node_that_runs_no_network_does_not_load_torch(node):
    """It takes 2 s and 200 MB."""
    pytest.importorskip("rclpy")
    report = f"import sys, timar_ros.nodes.{node}; print('torch' in sys.modules, 'rclpy' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", report], text=True).split() == ["False", "True"]
