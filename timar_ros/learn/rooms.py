"""Rooms for simulated echoes: the image source method of Allen & Berkley (1979) in a shoebox."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timar_ros.rates import SAMPLE_RATE

SOUND_SPEED = 343.0
"""m/s."""
_TAPS = 32
"""Half width of the windowed sinc that places an arrival between two samples."""


@dataclass(frozen=True)
class Room:
    """A shoebox in m, its reverberation time in s (to -60 dB), and where things stand in it.

    The loudspeaker stands beside the microphone, as in a robot's head; the talker stands before it.
    """

    name: str
    size: tuple[float, float, float]
    reverberation_s: float
    microphone: tuple[float, float, float]
    loudspeaker: tuple[float, float, float]
    talker: tuple[float, float, float]


OFFICE = Room("office", (4.0, 3.2, 2.6), 0.25, (1.6, 1.5, 1.2), (1.7, 1.55, 1.0), (2.6, 1.7, 1.5))
LIVING_ROOM = Room("living room", (5.5, 4.2, 2.6), 0.45, (2.0, 1.8, 1.2), (2.1, 1.85, 1.0), (3.1, 2.1, 1.6))


def impulse_response(room: Room, source: tuple[float, float, float], longest_s: float = 0.5) -> np.ndarray:
    """Response from `source` to the room's microphone at 16 kHz, float64 [n], the direct sound's level 1.

    The time of flight is kept. All walls reflect alike, as Sabine's formula asks for the reverberation time.
    """
    size = np.array(room.size)
    volume, surface = size.prod(), 2 * (size[0] * size[1] + size[1] * size[2] + size[2] * size[0])
    absorption = min(24 * np.log(10) / SOUND_SPEED * volume / (surface * room.reverberation_s), 0.99)
    reflection = np.sqrt(1.0 - absorption)
    length = round(min(longest_s, room.reverberation_s) * SAMPLE_RATE)
    counts = np.ceil(SOUND_SPEED * length / SAMPLE_RATE / (2 * size)).astype(int)
    orders = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in counts), indexing="ij"), -1).reshape(-1, 1, 3)
    mirrored = np.stack(np.meshgrid(*[(0, 1)] * 3, indexing="ij"), -1).reshape(1, -1, 3)
    images = (1 - 2 * mirrored) * np.array(source) + 2 * orders * size
    distance = np.linalg.norm(images - np.array(room.microphone), axis=-1).ravel()
    bounces = (np.abs(orders - mirrored) + np.abs(orders)).sum(axis=-1).ravel()
    arrival = distance / SOUND_SPEED * SAMPLE_RATE
    near = arrival < length - _TAPS
    arrival = arrival[near]
    strength = reflection ** bounces[near] / distance[near]
    whole = np.floor(arrival).astype(int)
    taps = np.arange(-_TAPS + 1, _TAPS + 1)
    position = taps[None, :] - (arrival - whole)[:, None]
    kernel = np.sinc(position) * (0.5 + 0.5 * np.cos(np.pi * position / (_TAPS + 1)))
    response = np.zeros(length + 2 * _TAPS)
    np.add.at(response, whole[:, None] + taps[None, :] + _TAPS - 1, strength[:, None] * kernel)
    direct = np.linalg.norm(np.array(source) - np.array(room.microphone))
    return response[_TAPS - 1 : length] * direct
