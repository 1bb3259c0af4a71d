"""What a policy folder's config.yaml says about its network."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from timar_ros.errors import TimarError

_SIZES = {  # name: (least, most)
    "motion_dim": (1, 512),
    "speech_width": (8, 4096),
    "width": (8, 4096),
    "blocks": (1, 64),
    "heads": (1, 64),
    "diffusion_width": (8, 4096),
    "diffusion_depth": (1, 16),
    "window_frames": (25, 2000),
    "max_turn_frames": (25, 100),
    "sampling_steps": (2, 1000),
    "max_lookahead_frames": (0, 25),
}


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a TIMAR network of our own kind.

    Attributes:
        motion_dim: numbers in a frame of motion.
        speech_width: of the speech encoder.
        width, blocks, heads: of the backbone.
        diffusion_width, diffusion_depth: of the diffusion head.
        window_frames: how many frames before the open turn's start are remembered.
        max_turn_frames: the longest turn that it can be given; conversations are cut into turns of up to 25.
        sampling_steps: diffusion steps at a draw.
        max_lookahead_frames: the own voice may run ahead of everything else by so many frames, as a synthesiser's
            does, and the network is told by how many. 0: it is never told.
    """

    motion_dim: int = 55
    speech_width: int = 192
    width: int = 192
    blocks: int = 4
    heads: int = 6
    diffusion_width: int = 256
    diffusion_depth: int = 3
    window_frames: int = 200
    max_turn_frames: int = 25
    sampling_steps: int = 5
    max_lookahead_frames: int = 4

    def __post_init__(self) -> None:
        for name, (least, most) in _SIZES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise TimarError(
                    f"config.yaml: network.{name} is {value!r}; a whole number from {least} to {most} is allowed"
                )
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise TimarError(
                f"config.yaml: network.width {self.width} over network.heads {self.heads} must be an even whole number"
            )

    @classmethod
    def from_dict(cls, values: Any) -> NetworkConfig:
        """Build from the `network` section of config.yaml; every key must be known and present."""
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict):
            raise TimarError(
                f"config.yaml: section 'network' must be a mapping with the keys {', '.join(sorted(known))}"
            )
        if wrong := known.symmetric_difference(values):
            unknown, missing = sorted(wrong - known), sorted(wrong & known)
            raise TimarError(
                f"config.yaml: section 'network' has unknown keys {unknown} and lacks {missing}; "
                "the folder may come from another version of timar_ros"
            )
        return cls(**values)

    def to_dict(self) -> dict[str, int]:
        return asdict(self)
