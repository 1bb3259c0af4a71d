"""What makes one person move unlike another: drawn once for each party of a dialogue."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Traits:
    """A person's manner; amounts are relative to an average person's 1 unless a unit is given.

    liveliness runs from 0 (the calm person of the measured two) to 1 (the lively one) and sets how
    far and fast the head moves. respond and backchannel are the chances to answer a cue of the
    speaker with a nod or smile, and with a backchannel. rest_* is how the head is held (rad).
    """

    liveliness: float
    jaw: float
    articulation: float
    lip_lead_s: float
    brows: float
    smiles: float
    respond: float
    backchannel: float
    response_delay_s: float
    look_while_speaking: float
    look_while_listening: float
    blinks_per_minute: float
    rest_roll: float
    rest_pitch: float
    rest_yaw: float
    asymmetry: float


def draw_traits(rng: np.random.Generator, liveliness: float | None = None) -> Traits:
    """A random person; calmer people also open the mouth less (the measured calm person did)."""
    lively = float(rng.beta(1.6, 1.6)) if liveliness is None else liveliness
    return Traits(
        liveliness=lively,
        jaw=float(np.clip((0.6 + 0.9 * lively) * np.exp(rng.normal(0.0, 0.2)), 0.35, 1.9)),
        articulation=float(np.clip(np.exp(rng.normal(0.0, 0.2)), 0.6, 1.5)),
        lip_lead_s=float(np.clip(rng.normal(0.06, 0.015), 0.03, 0.1)),
        brows=float((0.5 + lively) * np.exp(rng.normal(0.0, 0.3))),
        smiles=float(np.clip((0.5 + lively) * np.exp(rng.normal(0.0, 0.5)), 0.2, 3.0)),
        respond=float(np.clip(rng.normal(0.86 + 0.06 * lively, 0.05), 0.7, 0.97)),
        backchannel=float(np.clip(rng.normal(0.5, 0.13), 0.15, 0.9)),
        response_delay_s=float(np.clip(rng.normal(0.5, 0.05), 0.4, 0.62)),
        look_while_speaking=float(np.clip(rng.normal(0.42, 0.1), 0.2, 0.7)),
        look_while_listening=float(np.clip(rng.normal(0.75, 0.08), 0.5, 0.92)),
        blinks_per_minute=float(np.clip(rng.normal(21.0, 4.0), 12.0, 32.0)),
        rest_roll=float(np.radians(rng.normal(0.0, 1.2))),
        rest_pitch=float(np.radians(rng.normal(0.0, 2.0))),
        rest_yaw=float(np.radians(rng.normal(0.0, 2.0))),
        asymmetry=float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.2)),
    )
