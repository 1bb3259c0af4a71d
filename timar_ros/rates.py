"""The two clocks that everything counts by: samples at 16 kHz, frames at 25 a second; and by when motion is due."""

SAMPLE_RATE = 16_000
FRAME_RATE = 25
FRAME_SAMPLES = SAMPLE_RATE // FRAME_RATE
FRAME_S = 1 / FRAME_RATE
FRAME_NS = 1_000_000_000 // FRAME_RATE

PLAYOUT_RESERVE_MS = 100
"""From the end of a hop's last frame until its motion is due: transport, the step and the planner, at their slowest."""

CLOCK_LEAP_NS = 1_000_000_000
"""A clock that is further off than this from where it should be has leapt: a simulator was reset, a bag began anew."""
