"""FLAME motion as head rotation and ARKit weights: axes, signs, the jaw, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from timar_ros.channels import ARKIT_BLENDSHAPES, CHANNELS, quaternion_from_rpy
from timar_ros.errors import TimarError
from timar_ros.motion.flame import EXPRESSION, FLAME_CHANNELS, FLAME_DIM, JAW, NECK, ExpressionMap, from_flame, to_flame

HEADER = ",".join(["blendshape", "bias", *FLAME_CHANNELS[EXPRESSION]])


def flame(neck=(0.0, 0.0, 0.0), jaw_pitch: float = 0.0, expression: float = 0.0) -> np.ndarray:
    motion = np.zeros((1, FLAME_DIM))
    motion[0, NECK], motion[0, JAW.start], motion[0, EXPRESSION.start] = neck, jaw_pitch, expression
    return motion


@pytest.mark.parametrize(
    ("axis", "channel"),
    [(0, "headPitch"), (1, "headYaw"), (2, "headRoll")],
    ids=["x to the left: nods down", "y up: turns left", "z out of the face: tilts"],
)
def test_each_axis_of_the_neck_is_one_of_the_heads(axis, channel):
    moved = from_flame(flame(neck=np.eye(3)[axis] * 0.3))[0]
    assert moved[CHANNELS.index(channel)] == pytest.approx(0.3, abs=1e-6)
    assert np.abs(np.delete(moved, CHANNELS.index(channel))).max() < 1e-6


@given(st.tuples(*[st.floats(-0.8, 0.8)] * 3))
def test_the_neck_is_the_heads_rotation_exactly(neck):
    quaternion = quaternion_from_rpy(from_flame(flame(neck=neck))[:, :3])
    x, y, z = neck
    wanted = Rotation.from_rotvec([[z, x, y]])
    assert (Rotation.from_quat(quaternion) * wanted.inv()).magnitude()[0] < 1e-5


@pytest.mark.parametrize(("pitch", "weight"), [(-0.1, 0.0), (0.0, 0.0), (0.07, 0.2), (0.35, 1.0), (0.5, 1.0)])
def test_the_jaws_pitch_is_jaw_open(pitch, weight):
    assert from_flame(flame(jaw_pitch=pitch))[0, CHANNELS.index("jawOpen")] == pytest.approx(weight)


def test_expression_is_a_bias_and_a_matrix_cut_to_weights(tmp_path):
    (tmp_path / "map.csv").write_text(f"{HEADER}\nbrowInnerUp,0.1,0.5,{','.join(['0'] * 49)}\n")
    mapping = ExpressionMap.load(tmp_path / "map.csv")
    weights = [
        from_flame(flame(expression=e), mapping)[0, CHANNELS.index("browInnerUp")] for e in (-1.0, 0.0, 1.0, 3.0)
    ]
    assert weights == pytest.approx([0.0, 0.1, 0.6, 1.0])


def test_back_to_flame_is_the_inverse_where_there_is_one():
    rng = np.random.default_rng(0)
    mapping = ExpressionMap(rng.normal(0, 0.02, (52, 50)), np.full(52, 0.5))
    mapping.matrix[ARKIT_BLENDSHAPES.index("jawOpen")] = 0
    mapping.bias[ARKIT_BLENDSHAPES.index("jawOpen")] = 0
    motion = np.concatenate([rng.normal(0, 0.3, (20, 50)), np.zeros((20, 6))], axis=1)
    motion[:, JAW.start], motion[:, NECK] = rng.uniform(0, 0.3, 20), rng.normal(0, 0.2, (20, 3))
    there = from_flame(motion, mapping)
    back = to_flame(there, mapping)
    assert np.abs(back - motion)[:, JAW.start :].max() < 1e-5
    assert np.abs(from_flame(back, mapping) - there)[:, :3].max() < 1e-5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read as CSV"),
        ("a,b\n", "the header must be blendshape,bias,expression0"),
        (f"{HEADER}\njawOpen,1,2\n", "51 finite numbers must follow the name; 2 do"),
        (f"{HEADER}\njawOpen,{','.join(['nan'] * 51)}\n", "51 finite numbers"),
        (f"{HEADER}\njawOpen,{','.join(['x'] * 51)}\n", "51 numbers must follow"),
    ],
)
def test_a_wrong_map_is_refused_with_its_line(tmp_path, content, said):
    (tmp_path / "map.csv").write_text(content)
    with pytest.raises(TimarError, match=said):
        ExpressionMap.load(tmp_path / "map.csv")
