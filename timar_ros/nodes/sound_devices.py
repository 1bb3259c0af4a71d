"""PortAudio through sounddevice, imported when asked for, its failures put in words.

sounddevice raises at import where PortAudio is missing; a robot without sound must still start its
graph, so everything here raises NoSoundDeviceError, after which the caller waits and tries again.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from timar_ros.errors import TimarError
from timar_ros.nodes import runtime


class NoSoundDeviceError(TimarError):
    """No device can be opened now; the text says what to install or which devices exist."""


class DeviceKeeper:
    """A thread that works with a sound device, and waits for one that is missing or goes away.

    Args:
        work: opens the device and works until `ending` is set or all is done; raises NoSoundDeviceError when it is not
            there or goes. Any other error ends the node.
        wait_s: how long to wait then before it is tried again.
        tell: says a trouble; each once, not at every attempt.
        meanwhile: what to do while waiting, for so many s; returns early when `ending` is set.
    """

    def __init__(
        self,
        work: Callable[[], None],
        wait_s: Callable[[], float],
        tell: Callable[[str], None],
        meanwhile: Callable[[float], object] | None = None,
    ) -> None:
        self.ending = threading.Event()
        self._work = work
        self._wait_s = wait_s
        self._say = tell
        self._meanwhile = meanwhile or self.ending.wait
        self._told = ""
        self._thread = threading.Thread(target=self._run, name="sound device")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Have the work end, and wait for it."""
        self.ending.set()
        self._thread.join()

    def tell(self, trouble: str) -> None:
        """Say a trouble that was not the last one told."""
        if trouble != self._told:
            self._told = trouble
            self._say(trouble)

    def works(self) -> None:
        """The device is open: the next trouble is news again."""
        self._told = ""

    def _run(self) -> None:
        while not self.ending.is_set():
            try:
                self._work()
                return
            except NoSoundDeviceError as error:
                wait_s = self._wait_s()
                self.tell(f"{error}; trying again every {wait_s:g} s")
                self._meanwhile(wait_s)
            except Exception as error:
                runtime.fail(error)
                return


def open_stream(kind: str, device: str, **settings: Any) -> Any:
    """Open and start an InputStream (``kind`` "input") or OutputStream ("output").

    ``device`` is a part of its name or its number, empty for the system's default; ``settings`` go
    to sounddevice. A ``samplerate`` of 0 is the device's own. Raises NoSoundDeviceError.
    """
    sounddevice = _sounddevice()
    _start_anew(sounddevice)
    chosen = int(device) if device.isdecimal() else (device or None)
    try:
        info = sounddevice.query_devices(chosen, kind)
        settings["samplerate"] = settings["samplerate"] or min(info["default_samplerate"], 48_000)
        if kind == "input":
            channels = info["max_input_channels"]
            make = sounddevice.InputStream
        else:
            channels = info["max_output_channels"]
            make = sounddevice.OutputStream
        settings["channels"] = settings["channels"] or min(channels, 2)
        stream = make(device=chosen, dtype="float32", **settings)
        stream.start()
    except (sounddevice.PortAudioError, ValueError, OSError) as error:
        raise NoSoundDeviceError(
            f"the {kind} device {device or '(default)'!r} cannot be used: {error}; {_existing(sounddevice, kind)}"
        ) from error
    return stream


def _start_anew(sounddevice: ModuleType) -> None:
    """PortAudio lists the devices once, when it starts: to see what was plugged in since."""
    try:
        if sounddevice._initialized:  # not where the last start failed
            sounddevice._terminate()
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise NoSoundDeviceError(f"PortAudio does not start: {error}; see whether the sound server runs") from error


def _sounddevice() -> ModuleType:
    try:
        return importlib.import_module("sounddevice")
    except ImportError as error:
        raise NoSoundDeviceError(
            "the Python package sounddevice is missing; install it with `python3 -m pip install sounddevice`"
        ) from error
    except OSError as error:
        raise NoSoundDeviceError(
            f"PortAudio is missing ({error}); install it with `sudo apt install libportaudio2`"
        ) from error


def _existing(sounddevice: ModuleType, kind: str) -> str:
    devices = [
        f"{number} {info['name']!r} ({info[f'max_{kind}_channels']} channels, {info['default_samplerate']:.0f} Hz)"
        for number, info in enumerate(sounddevice.query_devices())
        if info[f"max_{kind}_channels"] > 0
    ]
    if not devices:
        return f"this machine has no {kind} device; plug one in, or play a file instead"
    return f"{kind} devices here: " + ", ".join(devices)
