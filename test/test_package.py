"""The package as colcon and pip install it: executables, files, metadata, requirements."""

import ast
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import metadata
from pathlib import Path

import pytest

from timar_ros import __version__
from timar_ros.errors import TimarError
from timar_ros.resources import share_path

ROOT = Path(__file__).resolve().parents[1]
DATA_FOLDERS = ("config", "demo", "launch", "models", "urdf")
# Names in requirement files and what rosdep calls them.
ROSDEP_KEYS = {"pillow": "python3-pil", "pyyaml": "python3-yaml", "scikit-learn": "python3-sklearn"}


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment without this one's ROS: as a person's fresh shell has it."""
    dropped = ("AMENT_PREFIX_PATH", "COLCON_PREFIX_PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    kept = {k: v for k, v in os.environ.items() if k not in (*dropped, "_ROS_WHEELS_BOOTSTRAP_COMPLETE")}
    return kept | variables


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Standard output of a command in a clean environment; fails the test with all it printed."""
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """The source without what is built from it, since building writes beside it."""
    folder = tmp_path_factory.mktemp("source") / "timar_ros"
    (folder / "resource").mkdir(parents=True)
    for name in ("package.xml", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(ROOT / "resource" / "timar_ros", folder / "resource")
    for name in ("timar_ros", "bin", *DATA_FOLDERS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def colcon_build(checkout: Path, workspace: Path, *options: str) -> Path:
    """The install folder of a workspace that colcon built from the checkout."""
    pytest.importorskip("colcon_core")
    run(
        *(sys.executable, "-m", "colcon", "--log-base", workspace / "log", "build", *options),
        *("--base-paths", checkout, "--build-base", workspace / "build"),
        *("--install-base", workspace / "install"),
        cwd=workspace,
    )
    return workspace / "install"


@pytest.fixture(scope="module")
def colcon_install(checkout, tmp_path_factory) -> Path:
    return colcon_build(checkout, tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module", params=["--prefix", "--target"])
def pip_install(request, checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pip")
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"),
        # Without --ignore-installed pip would take the package out of the environment that the tests run in.
        *("--disable-pip-version-check", "--ignore-installed", request.param, folder, "."),
        cwd=checkout,
    )
    return folder


def executables() -> dict[str, str]:
    """Names and `module:function` of the executables that this version declares."""
    found = re.findall(r'"(\w+) = ([\w.]+:\w+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert len(found) >= 6
    return dict(found)


def source_files() -> list[Path]:
    return [
        path.relative_to(ROOT)
        for folder in DATA_FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]


def assert_files_installed(share: Path) -> None:
    for path in source_files():
        assert (share / path).is_file(), f"{path} was not installed"
        assert (share / path).stat().st_size == (ROOT / path).stat().st_size


# ---- colcon: where `ros2 run` and `ros2 launch` look -------------------------------------------


def test_colcon_puts_executables_where_ros2_run_looks(colcon_install):
    folder = colcon_install / "timar_ros" / "lib" / "timar_ros"
    assert {p.name for p in folder.iterdir() if os.access(p, os.X_OK)} == set(executables())


def test_colcon_puts_files_where_ros2_launch_looks(colcon_install):
    assert_files_installed(colcon_install / "timar_ros" / "share" / "timar_ros")


def test_colcon_makes_the_package_known_to_the_ament_index(colcon_install):
    share = colcon_install / "timar_ros" / "share"
    assert (share / "ament_index" / "resource_index" / "packages" / "timar_ros").is_file()
    # colcon leaves this hook out without a word when it finds fault with package.xml
    assert (share / "timar_ros" / "hook" / "ament_prefix_path.sh").is_file()


def in_sourced_workspace(install: Path, command: str) -> str:
    setup = f". {install}/setup.bash && {command}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return run("bash", "-c", setup, cwd=install, PATH=path)


def test_sourcing_the_workspace_finds_its_files(colcon_install):
    code = "from timar_ros.resources import share_path; print(share_path('config', 'head.yaml'))"
    found = Path(in_sourced_workspace(colcon_install, f'python3 -c "{code}"').strip())
    assert found == colcon_install / "timar_ros" / "share" / "timar_ros" / "config" / "head.yaml"


def test_an_installed_executable_runs(colcon_install):
    command = f"{colcon_install}/timar_ros/lib/timar_ros/timar --version"
    assert in_sourced_workspace(colcon_install, command).strip().endswith(__version__)


def assert_timar_is_on_the_path(install: Path) -> None:
    found, version = in_sourced_workspace(install, "command -v timar && timar --version").splitlines()
    assert Path(found) == install / "timar_ros" / "bin" / "timar"
    assert version.endswith(__version__)


def test_the_command_timar_is_on_the_path_of_a_sourced_workspace(colcon_install):
    assert_timar_is_on_the_path(colcon_install)
    assert [p.name for p in (colcon_install / "timar_ros" / "bin").iterdir()] == ["timar"]


def test_colcon_installs_links_for_development(checkout, tmp_path):
    install = colcon_build(checkout, tmp_path, "--symlink-install")
    assert_files_installed(install / "timar_ros" / "share" / "timar_ros")
    command = f"{install}/timar_ros/lib/timar_ros/timar --version"
    assert in_sourced_workspace(install, command).strip().endswith(__version__)
    assert_timar_is_on_the_path(install)


def test_executables_run_with_the_python_of_the_active_environment(colcon_install):
    """Not with the one that ran colcon: torch may live in an environment beside ROS."""
    script = colcon_install / "timar_ros" / "lib" / "timar_ros" / "head_node"
    assert script.read_text(encoding="utf-8").splitlines()[0] == "#!/usr/bin/env python3"


# ---- pip ---------------------------------------------------------------------------------------


def test_pip_puts_executables_into_bin(pip_install):
    assert set(executables()) <= {p.name for p in pip_install.rglob("bin/*")}


def test_pip_makes_the_one_command_timar(pip_install):
    """The wheel brings none beside the console script, which runs with the Python that pip ran under."""
    (script,) = pip_install.rglob("bin/timar")
    assert script.read_text(encoding="utf-8").splitlines()[0] == f"#!{sys.executable}"
    record = next(pip_install.rglob("timar_ros-*.dist-info/RECORD")).read_text(encoding="utf-8")
    assert len(re.findall(r"bin/timar,", record)) == 1
    package = next(pip_install.rglob("timar_ros/resources.py")).parent
    assert run(script, "--version", cwd=pip_install, PYTHONPATH=str(package.parent)).strip().endswith(__version__)


def test_a_pip_installation_has_and_finds_its_files(pip_install):
    package = next(pip_install.rglob("timar_ros/resources.py")).parent
    code = "from timar_ros.resources import share_path; print(share_path('package.xml'))"
    found = run(sys.executable, "-c", code, cwd=pip_install, PYTHONPATH=str(package.parent))
    share = Path(found.strip()).parent
    assert share.is_relative_to(pip_install.resolve())
    assert_files_installed(share)


def test_every_file_of_the_python_package_is_installed(pip_install):
    package = next(pip_install.rglob("timar_ros/resources.py")).parent
    for path in (ROOT / "timar_ros").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (package / path.relative_to(ROOT / "timar_ros")).is_file(), path


# ---- the source checkout -----------------------------------------------------------------------


def test_a_source_checkout_finds_its_own_files():
    code = "from timar_ros.resources import share_path; print(share_path('urdf', 'head.urdf'))"
    found = run(sys.executable, "-c", code, cwd=ROOT, PYTHONPATH=str(ROOT))
    assert Path(found.strip()) == ROOT / "urdf" / "head.urdf"


def test_a_file_that_is_not_there_is_named_with_what_is():
    with pytest.raises(TimarError, match=r"no file 'config/robots/r2d2.yaml'.*generic.yaml"):
        share_path("config", "robots", "r2d2.yaml")


def test_a_package_without_its_files_says_where_it_looked(checkout, tmp_path):
    shutil.copytree(checkout / "timar_ros", tmp_path / "timar_ros")
    code = (
        "from timar_ros.resources import share_path\n"
        "from timar_ros.errors import TimarError\n"
        "try: share_path('config')\n"
        "except TimarError as error: print(error)"
    )
    said = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert str(tmp_path / "share" / "timar_ros") in said
    assert "setup.bash" in said


@pytest.mark.parametrize("name", executables())
def test_every_executable_can_be_loaded(name):
    entry = metadata.EntryPoint(name, executables()[name], "console_scripts")
    assert callable(entry.load())


# ---- metadata and requirements -----------------------------------------------------------------


def package_xml() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


def declared_in_setup(checkout: Path) -> metadata.Distribution:
    folder = next(checkout.glob("*.egg-info"))
    return metadata.PathDistribution(folder)


@pytest.fixture(scope="module")
def setup_metadata(checkout) -> metadata.Distribution:
    run(sys.executable, "setup.py", "-q", "egg_info", cwd=checkout)
    return declared_in_setup(checkout)


def test_package_xml_and_setup_say_the_same(setup_metadata):
    root, told = package_xml(), setup_metadata.metadata
    maintainer = root.find("maintainer")
    assert told["Name"].replace("-", "_") == root.findtext("name") == "timar_ros"
    assert told["Version"] == root.findtext("version") == __version__
    assert told["Maintainer"] == maintainer.text
    assert told["Maintainer-email"] == maintainer.get("email")
    assert (told["License"] or told["License-Expression"]) == root.findtext("license")


def test_package_xml_is_valid():
    """catkin_pkg is what colcon reads it with; its warnings cost the package its ament hooks."""
    parser = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    package = parser.parse_package(str(ROOT), warnings=warnings)
    assert warnings == []
    assert package.get_build_type() == "ament_python"


def imported_modules() -> set[str]:
    """Top-level modules that the package imports and neither Python nor the package holds."""
    names = set()
    for path in (ROOT / "timar_ros").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    # "compression" is in Python from 3.14 on
    return names - sys.stdlib_module_names - {"timar_ros", "compression"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s;<>=!~\[]", name)[0]).lower()


def listed(file: str) -> set[str]:
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    return {normal(line) for line in lines if line and not line.startswith(("#", "-"))}


def test_every_import_is_a_declared_requirement(setup_metadata):
    # Packages go by the names of their modules, but for the Python part of tf2_ros.
    ros = {d.text.removesuffix("_py") for d in package_xml().findall("exec_depend")}
    pip = {normal(r) for r in setup_metadata.requires if "extra" not in r}
    providers = metadata.packages_distributions()
    undeclared = {
        name for name in imported_modules() - ros if not pip & {normal(d) for d in providers.get(name, [name])}
    }
    assert not undeclared


def test_requirement_files_hold_what_the_package_requires(setup_metadata):
    required = {normal(r) for r in setup_metadata.requires if "extra" not in r}
    assert required <= listed("demo.txt")
    rosdep = {d.text for d in package_xml().findall("exec_depend")}
    by_rosdep = {r for r in required if ROSDEP_KEYS.get(r, f"python3-{r}") in rosdep}
    assert listed("robot.txt") == required - by_rosdep


def test_every_requirement_of_the_environment_is_pinned():
    pins = (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line) for line in pins if "==" in line}
    assert listed("demo.txt") | listed("test.txt") <= pinned
    assert "torch==2.13.0" in pins


def test_readme_describes_every_parameter_of_the_head():
    from timar_ros.nodes.head_node import PARAMETERS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for parameter in PARAMETERS:
        assert f"\n| `{parameter.name}` | " in readme, f"README's table lacks {parameter.name}"
