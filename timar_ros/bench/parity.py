"""How far the published network is from outputs of the published code: the parity test's largest differences."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from timar_ros.bench.timing import write_result

TEST = Path(__file__).parents[2] / "test" / "test_published_parity.py"


def measure() -> dict[str, object]:
    if not TEST.is_file():
        return {"skipped": "the test comes with the source, not with the installed package"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", str(TEST)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", file=sys.stderr)
        raise SystemExit("the published network is not as the fixtures tell")
    found = re.findall(r"largest difference, (.+): (\S+)", done.stdout)
    return {what: float(value) for what, value in found} | {"passed": True}


if __name__ == "__main__":
    write_result({"parity": measure()})
