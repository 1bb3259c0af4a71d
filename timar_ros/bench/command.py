"""`timar bench`: runs the sections, each in a process of its own, prints a table and writes bench.json.

Timings belong to the machine and to what else runs on it: run it when nothing else does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from timar_ros.errors import TimarError

SECTIONS = {  # section: (module, cores)
    "parity": ("timar_ros.bench.parity", 1),
    "default": ("timar_ros.bench.default", 1),
    "motion": ("timar_ros.bench.motion", 1),
    "offline": ("timar_ros.bench.offline", 2),
    "large": ("timar_ros.bench.large", 2),
    "cuda": ("timar_ros.bench.cuda", 2),
    "live": ("timar_ros.bench.live", 2),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"), help="JSON file to write")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), default=tuple(SECTIONS), help="sections to run")


def run(args: argparse.Namespace) -> int:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": machine()}
    failed = []
    for name in args.only:
        print(f"\n{name} …", flush=True)
        try:
            found = run_section(name)
        except TimarError as error:
            print(error, file=sys.stderr)
            failed.append(name)
            continue
        print("\n".join(lines(found)), flush=True)
        for subject, figures in found.items():
            results.setdefault(subject, {}).update(figures)
        # What is measured is kept even when a later section is stopped.
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {args.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def machine() -> dict[str, Any]:
    model = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = found[0] if found else ""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def run_section(name: str) -> dict[str, Any]:
    """The figures that a section's module writes as JSON to the file it is given."""
    module, cores = SECTIONS[name]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    environment = os.environ | {"OMP_NUM_THREADS": str(len(allowed)), "GOMP_SPINCOUNT": "10000"}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        done = subprocess.run(
            [sys.executable, "-m", module, str(result)],
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
            check=False,
        )
        if done.returncode or not result.exists():
            raise TimarError(f"section {name} ended with exit code {done.returncode}; what it printed is above")
        return json.loads(result.read_text(encoding="utf-8"))


def lines(figures: dict[str, Any], prefix: str = "  ") -> list[str]:
    """A nested result as aligned lines."""
    found = []
    for name, value in figures.items():
        if isinstance(value, dict):
            found += [f"{prefix}{name}", *lines(value, prefix + "  ")]
        else:
            found.append(f"{prefix}{name:<32} {value}")
    return found
