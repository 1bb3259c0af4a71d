"""Finds the package's own files (launch, config, models, urdf, demo) wherever it is installed."""

from collections.abc import Iterator
from pathlib import Path

from timar_ros.errors import TimarError

PACKAGE = "timar_ros"


def share_path(*parts: str) -> Path:
    """Path of a file or folder of the package, such as `share_path("config", "head.yaml")`.

    Looked for in the first of these that holds the package: the share folder the ament index knows
    (a sourced colcon or ROS installation), the source checkout around this file, and the
    `share/timar_ros` of a pip installation that this file belongs to.

    Raises:
        TimarError: the package's files or the one asked for are not there; names the places.
    """
    folder = _share_folder()
    path = folder.joinpath(*parts)
    if not path.exists():
        wanted = "/".join(parts)
        beside = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        have = f"; {path.parent} holds {', '.join(beside)}" if beside else ""
        raise TimarError(
            f"{PACKAGE} has no file {wanted!r}: looked in {folder}{have}. "
            "Give one that exists, or install the package again if it should be there."
        )
    return path


def _share_folder() -> Path:
    """The folder that holds package.xml and, beside it, launch, config, models, urdf and demo."""
    looked = []
    for folder in _candidates():
        if (folder / "package.xml").is_file():
            return folder
        looked.append(str(folder))
    raise TimarError(
        f"The files of {PACKAGE} (launch, config, models, urdf) were not found: no package.xml in "
        f"{', '.join(looked)}. Source the workspace's install/setup.bash, or install the package "
        "with `pip install .` from its source."
    )


def _candidates() -> Iterator[Path]:
    ament = _ament_share()
    if ament is not None:
        yield ament
    package = Path(__file__).resolve().parent
    yield package.parent
    # pip puts data under PREFIX/share and code under PREFIX/lib/pythonX.Y/site-packages (Debian:
    # PREFIX/local/lib/...; `--target`: PREFIX itself): PREFIX is a few folders up, whatever it is.
    for prefix in package.parents[:5]:
        yield prefix / "share" / PACKAGE


def _ament_share() -> Path | None:
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(PACKAGE))
    except (ImportError, OSError, LookupError):  # no ROS, none sourced, the package is not in it
        return None
