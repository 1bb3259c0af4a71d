"""PortAudio through sounddevice, imported when asked for, its failures put in words.

sounddevice raises at import where PortAudio is missing; a robot without sound must still start its
graph, so everything here raises NoSoundDeviceError, after which the caller waits and tries again.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from timar_ros.errors import TimarError


class NoSoundDeviceError(TimarError):
    """No device can be opened now; the text says what to install or which devices exist."""


def open_stream(kind: str, device: str, **settings: Any) -> Any:
    """Open and start an InputStream (``kind`` "input") or OutputStream ("output").

    ``device`` is a part of its name or its number, empty for the system's default; ``settings`` go
    to sounddevice. A ``samplerate`` of 0 is the device's own. Raises NoSoundDeviceError.
    """
    sounddevice = _sounddevice()
    # PortAudio lists the devices once, when it starts: start it anew to see what was plugged in.
    sounddevice._terminate()
    sounddevice._initialize()
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
