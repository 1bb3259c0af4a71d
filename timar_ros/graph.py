"""The nodes of a conversation as processes of their own: what `timar demo`, `talk`, `view` and `bench` run."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from timar_ros.errors import TimarError

# The time between the microphones' start and their first sample: discovery now and then takes almost 3 s, and the
# recorder must be listening when the sound begins.
LEAD_S = 4.0
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # prctl(2)


def _end_with_parent() -> None:
    """Have this process interrupted when the one that started it ends in whatever way: nobody else would stop it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, and inherited so, where a script starts us with &
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Graph:
    """Processes of nodes, shut off from any other ROS graph; leaving the context stops them.

    For the main thread: the processes end with the thread that started them.
    """

    def __init__(self, logs: Path) -> None:
        logs.mkdir(parents=True)
        self._logs = logs
        self._processes: dict[str, subprocess.Popen] = {}
        self.domain = random.SystemRandom().randint(1, 101)
        # One thread for each library: two cores carry seven processes, and idle threads that spin cost latency.
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._environment = (
            os.environ
            | threads
            | {
                "ROS_DOMAIN_ID": str(self.domain),
                "ROS_LOCALHOST_ONLY": "1",
                "PYTHONUNBUFFERED": "1",
            }
        )

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        recorder = self._processes.get("recorder")
        self.stop()
        if kind is None and recorder is not None and recorder.returncode:
            raise TimarError(f"the recording is not whole; the recorder says:\n{self._log_end('recorder')}")

    def start(
        self, name: str, module: str, remap: dict[str, str] | None = None, typed: bool = False, **parameters: object
    ) -> subprocess.Popen:
        """Start a node's process; parameters are given as on `ros2 run`'s command line.

        `typed`: what is written to the process's `stdin` (text) reaches its keyboard.
        """
        arguments = ["-r", f"__node:={name}"]
        for old, new in (remap or {}).items():
            arguments += ["-r", f"{old}:={new}"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={json.dumps(value)}"]
        command = [sys.executable, "-m", f"timar_ros.nodes.{module}", "--ros-args", *arguments]
        with (self._logs / f"{name}.log").open("w", encoding="utf-8") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
                text=typed,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        return self._processes[name]

    def wait_until_ready(self, commands: str) -> None:
        """Wait until the recorder has what the head node publishes on the topic `commands`, and the simulated head.

        Raises:
            TimarError: a process ended, or they do not find each other in time.
        """
        limit = time.monotonic() + READY_TIMEOUT_S
        waiting = [f"/{commands}", "/joint_states"]
        while waiting:
            self.check()
            waiting = [topic for topic in waiting if f"recording {topic} " not in self.log("recorder")]
            if waiting and time.monotonic() > limit:
                raise TimarError(
                    f"nobody published {', '.join(waiting)} within {READY_TIMEOUT_S:.0f} s; "
                    f"the logs are in {self._logs}; the head node's says:\n{self._log_end('head')}"
                )
            time.sleep(0.1)

    def wait_for(self, name: str, text: str, ended: threading.Event) -> str:
        """What follows `text` on its line in the output of a process, or "" once `ended`.

        Raises:
            TimarError: a process ended, or it did not come in time.
        """
        limit = time.monotonic() + READY_TIMEOUT_S
        while not ended.is_set():
            self.check()
            _, found, after = self.log(name).partition(text)
            if found and "\n" in after:
                return after.partition("\n")[0]
            if time.monotonic() > limit:
                raise TimarError(
                    f"{name} did not get ready within {READY_TIMEOUT_S:.0f} s; its log says:\n{self._log_end(name)}"
                )
            ended.wait(0.1)
        return ""

    def watch(self, until: float) -> None:
        """Let the graph run until a time (s since the epoch); raises when a process ends before."""
        while time.time() < until:
            self.check()
            time.sleep(0.2)

    def stop(self) -> None:
        """End all processes, the recorder last: it takes down what the others still say. A second Ctrl-C waits."""
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            recorder = self._processes.pop("recorder", None)
            self._end(list(self._processes.values()))
            self._end([recorder] if recorder else [])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @staticmethod
    def _end(processes: list[subprocess.Popen]) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def check(self) -> None:
        """Raises TimarError where a process ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise TimarError(
                    f"{name} ended with exit code {process.returncode}; its log says:\n{self._log_end(name)}"
                )

    def log(self, name: str) -> str:
        return (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def _log_end(self, name: str, lines: int = 15) -> str:
        return "\n".join(self.log(name).splitlines()[-lines:])
