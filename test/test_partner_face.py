"""What a tracker tells of the partner's face: what it does not tell, or tells wrongly, is unknown and not 0."""

import numpy as np
import pytest

from timar_ros.channels import CHANNELS
from timar_ros.stream.partner_face import PartnerFace

MS = 1_000_000
JAW = CHANNELS.index("jawOpen")
LEFT = (0.0, 0.0, np.sin(0.1), np.cos(0.1))
"""0.2 rad of yaw."""


def test_what_is_told_wrongly_is_left_out():
    face = PartnerFace()
    face.push_pose(0, (0.0, 0.0, 0.0, 0.0))
    face.push_pose(0, (np.nan, 0.0, 0.0, 1.0))
    face.push_blendshapes(0, ["headYaw", "smirk", "jawOpen"], [0.5, 0.5, np.nan])
    assert face.at(0) is None


def test_weights_are_cut_to_their_range_and_all_else_is_unknown():
    face = PartnerFace()
    face.push_blendshapes(0, ["jawOpen", "browInnerUp"], [7.0, np.inf])
    seen = face.at(0)
    assert seen[JAW] == 1.0 and np.isnan(np.delete(seen, JAW)).all()


def test_a_pose_is_seen_from_its_instant_on_for_a_while():
    face = PartnerFace()
    face.push_pose(10 * MS, LEFT)
    assert face.at(5 * MS) is None
    seen = face.at(20 * MS)
    assert seen[:3] == pytest.approx([0.0, 0.0, 0.2]) and np.isnan(seen[3:]).all()
    assert face.at(400 * MS) is None
