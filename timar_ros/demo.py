"""`timar demo`: a two-voice conversation in real time through the real nodes, each a process of its own.

microphone_node (self) ────┐                ┌─ simulated_head ─ joint_states
microphone_node (partner) ─┴─ head_node ────┤
speaker_node                                └─ recorder ─ bag ─ summary.json, report.html, head.mp4
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import soundfile

from timar_ros.errors import TimarError
from timar_ros.resources import share_path

# The time between the microphones' start and their first sample: discovery now and then takes almost 3 s, and the
# recorder must be listening when the sound begins.
LEAD_S = 4.0
# After the last sample: until the head has shown it.
PLAYED_OUT_S = 0.25
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--self", dest="own", metavar="WAV", help="voice that the head speaks with (any sound file)")
    parser.add_argument("--partner", metavar="WAV", help="voice of the person in front of the head")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    parser.add_argument("--policy", default="default", help="policy folder: a name under models/ or a path")
    parser.add_argument(
        "--hop-frames",
        type=int,
        default=2,
        help="frames of 40 ms that the policy advances by (1 to 25)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the policy's noise")
    parser.add_argument("--no-video", action="store_true", help="leave out the rendered video")


def run(args: argparse.Namespace) -> int:
    own, partner = voices(args.own, args.partner)
    seconds = max(duration_s(own), duration_s(partner))
    out = prepare_folder(args.out)
    print(
        f"playing {own.name} (self) and {partner.name} (partner), {seconds:.0f} s, in real time …",
        flush=True,
    )
    with Graph(out / "logs") as graph:
        graph.start("recorder", "recorder", out=str(out / "bag"))
        graph.start("simulated_head", "simulated_head", face="head")  # with a jaw, for lips against sound
        graph.start("speaker", "speaker_node")
        graph.start("head", "head_node", policy=args.policy, hop_frames=args.hop_frames, seed=args.seed)
        graph.wait_until_ready()
        start_at = time.time() + LEAD_S
        for party, file in (("self", own), ("partner", partner)):
            remap = {"microphone/audio": "partner/audio"} if party == "partner" else {}
            graph.start(f"microphone_{party}", "microphone_node", remap, file=str(file), start_at=start_at)
        graph.watch(until=start_at + seconds + PLAYED_OUT_S)
    return show_results(out, video=not args.no_video)


def voices(own: str | None, partner: str | None) -> tuple[Path, Path]:
    """The two sound files: both given, or the conversation that comes with the package."""
    if (own is None) != (partner is None):
        given, lacking = ("SELF", "PARTNER") if partner is None else ("PARTNER", "SELF")
        raise TimarError(
            f"{given} is given without {lacking}; a conversation has two voices: "
            "make demo SELF=a.wav PARTNER=b.wav, or neither for the conversation that comes with the package"
        )
    if own is None:
        return share_path("demo", "self.ogg"), share_path("demo", "partner.ogg")
    return Path(own), Path(partner)


def duration_s(file: Path) -> float:
    """Length of a sound file in s.

    Raises:
        TimarError: it is not there, or no sound file, or empty.
    """
    if not file.is_file():
        raise TimarError(f"there is no file {file}; give the path of a sound file (WAV, FLAC, OGG, MP3)")
    try:
        seconds = soundfile.info(file).duration
    except soundfile.LibsndfileError as error:
        raise TimarError(f"{file} is no sound file that can be read ({error}); WAV, FLAC, OGG and MP3 are") from error
    if seconds < 1.0:
        raise TimarError(f"{file} holds {seconds:.2f} s of sound; at least 1 s is needed")
    return seconds


def prepare_folder(out: Path) -> Path:
    """An empty folder for the results; only what an earlier demo left there is removed."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("bag", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("summary.json", "report.html", "head.mp4"):
        (out / name).unlink(missing_ok=True)
    return out.resolve()


def show_results(out: Path, video: bool, topics: dict[str, str] | None = None) -> int:
    """Summary, report and video from the bag in `out`; prints the table. `topics` as for `read_recording`."""
    from timar_ros.replay import bag, render, report, summary

    recording = bag.read_recording(out / "bag", topics)
    figures = summary.summarise(recording)
    (out / "summary.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if video:
        render.render_video(recording, out / "head.mp4")
    report.write_report(recording, figures, out / "report.html")
    print(summary.table(figures))
    print(f"\nlook at {out / 'report.html'}" + (f" and {out / 'head.mp4'}" if video else ""))
    return 0


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1  # prctl(2)


def _end_with_parent() -> None:
    """Have this process interrupted when the one that started it ends in whatever way: nobody else would stop it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class Graph:
    """The demo's processes, shut off from any other ROS graph; leaving the context stops them.

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

    def wait_until_ready(self) -> None:
        """Wait until the recorder has what the head node and the simulated head publish.

        Raises:
            TimarError: a process ended, or they do not find each other in time.
        """
        limit = time.monotonic() + READY_TIMEOUT_S
        waiting = ["/head_controller/joint_trajectory", "/joint_states"]
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
