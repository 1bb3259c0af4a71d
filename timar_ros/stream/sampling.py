"""How a policy's motion is drawn, apart for head, eyes, mouth and face."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from timar_ros.channels import CHANNELS, HEAD_CHANNELS
from timar_ros.model.checkpoint import Policy
from timar_ros.rates import FRAME_RATE

# Posture is the mean of where head and face were, each moment's weight falling to 1/e in so many seconds.
POSTURE_S = 20.0

REGIONS = {"eyes": ("eye",), "mouth": ("mouth", "jaw", "tongue")}


@dataclass(frozen=True)
class Sampling:
    """How motion is drawn.

    Attributes:
        head_temperature, eyes_temperature, mouth_temperature, face_temperature: scale the noise of the diffusion steps;
            0 draws nothing and takes the mean of all that could be drawn. Eyes and mouth are the channels that REGIONS
            names, face the other blendshapes.
        head_correlation_frames and the like: how long noise stays alike, in frames of 40 ms (deviation of the
            smoothing kernel).
        head_return_per_s: how fast the head comes back to its usual place beside what the network makes of it, as the
            rate of an exponential (1/s). What is drawn from what was drawn wanders further in a minute than people do.
        posture_return_per_s: the same, but in proportion to the head's posture, the mean of its last places
            (POSTURE_S), so that it does not lean to one side for a minute. Faster motion is hardly touched.
        face_posture_return_per_s: the same of the face, so that brows do not stay up.
        mouth_gain: by how much the mouth's way from its mean place is enlarged. Means of what could be drawn move less
            than any of it does (global variance; Toda and Tokuda 2007).
        mouth_spread_frames: over how many of a hop's frames what it newly knows of the mouth sets in; 0: at once. Each
            hop hears more of the voice than the one before, so the mean that it expects jumps where it begins. At most
            one frame more than the own voice is known ahead: lips that are late are worse than lips that jump.
        nod_threshold: how likely a listener's nod must be for one to begin, 0 to 1; at 1 none ever does.
    """

    head_temperature: float = 1.0
    eyes_temperature: float = 1.0
    mouth_temperature: float = 1.0
    face_temperature: float = 1.0
    head_correlation_frames: float = 1.0
    eyes_correlation_frames: float = 1.0
    mouth_correlation_frames: float = 1.0
    face_correlation_frames: float = 1.0
    head_return_per_s: float = 0.0
    posture_return_per_s: float = 0.0
    face_posture_return_per_s: float = 0.0
    mouth_gain: float = 1.0
    mouth_spread_frames: float = 0.0
    nod_threshold: float = 0.5

    @classmethod
    def from_policy(cls, policy: Policy, temperature: float = 1.0) -> Sampling:
        """The policy folder's own settings, its temperatures times `temperature`."""
        own = policy.sampling_as(cls)
        return replace(
            own, **{name: value * temperature for name, value in vars(own).items() if name.endswith("_temperature")}
        )

    @classmethod
    def mean(cls) -> Sampling:
        """Without noise in the steps: near the mean of what could be drawn."""
        return cls(**{name: 0.0 for name in vars(cls()) if name.endswith("_temperature")})

    def temperatures(self) -> np.ndarray:
        """[55] float32."""
        return self._per_channel("temperature")

    def gains(self) -> np.ndarray:
        """[55] float32."""
        return np.array([self.mouth_gain if region(channel) == "mouth" else 1.0 for channel in CHANNELS], np.float32)

    def returns(self, lags: int) -> np.ndarray:
        """[lags, 55] float32, what is left of a channel's way from its usual place after so many frames."""
        return _left_over({"head": self.head_return_per_s}, lags)

    def posture_returns(self, lags: int) -> np.ndarray:
        """[lags, 55] float32, the share of its posture that a channel has come back by after so many frames."""
        rates = {"head": self.posture_return_per_s, "face": self.face_posture_return_per_s}
        return 1.0 - _left_over(rates, lags)

    def spreads(self, lags: int, lookahead_frames: int) -> np.ndarray:
        """[lags, 55] float32, how much of a hop's jump from the newest motion is still to come so many frames later."""
        over = min(self.mouth_spread_frames, 1.0 + lookahead_frames)
        left = np.clip(1.0 - np.arange(lags) / (1.0 + over), 0.0, 1.0)
        left[0] = 0.0  # nothing was before
        mouth = np.array([region(channel) == "mouth" for channel in CHANNELS])
        return (left[:, None] * mouth).astype(np.float32)

    def correlations(self) -> np.ndarray:
        """[55] float32, frames."""
        return self._per_channel("correlation_frames")

    def _per_channel(self, what: str) -> np.ndarray:
        return np.array([getattr(self, f"{region(channel)}_{what}") for channel in CHANNELS], np.float32)


def region(channel: str) -> str:
    """head, eyes, mouth or face."""
    if channel in HEAD_CHANNELS:
        return "head"
    return next((name for name, beginnings in REGIONS.items() if channel.startswith(beginnings)), "face")


def _left_over(per_s: Mapping[str, float], lags: int) -> np.ndarray:
    rates = np.array([per_s.get(region(channel), 0.0) for channel in CHANNELS])
    return np.exp(-rates * np.arange(lags)[:, None] / FRAME_RATE).astype(np.float32)
