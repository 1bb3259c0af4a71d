"""One map from ARKit blendshapes to the joints of a face, as YAML."""

import copy

import numpy as np
import pytest

from timar_ros.channels import ARKIT_BLENDSHAPES
from timar_ros.errors import TimarError
from timar_ros.robot.face_map import FaceMap, weights_by_name

SERVO = {"name": "jaw_servo", "rest": 0.1, "limits": {"position": {"min": 0.0, "max": 0.5}}}
MINE = {"name": "mine", "joints": [SERVO | {"blendshapes": {"jawOpen": 0.6, "mouthClose": -0.2}}]}


def position(face: FaceMap, joint: str, **weights: float) -> float:
    given = face.joints(weights_by_name(list(weights), list(weights.values())))
    return given[face.joint_names.index(joint)]


def test_a_joint_is_its_rest_and_the_weights_times_their_gains_within_the_limits():
    face = FaceMap.from_dict(MINE)
    assert position(face, "jaw_servo") == pytest.approx(0.1)
    assert position(face, "jaw_servo", jawOpen=0.5, mouthClose=0.25) == pytest.approx(0.1 + 0.3 - 0.05)
    assert position(face, "jaw_servo", jawOpen=1.0) == 0.5
    assert position(face, "jaw_servo", mouthClose=1.0) == 0.0


def test_weights_beyond_0_and_1_are_cut_and_those_that_are_no_number_count_as_0():
    face = FaceMap.from_dict(MINE)
    assert position(face, "jaw_servo", jawOpen=-3.0) == pytest.approx(0.1)
    assert position(face, "jaw_servo", jawOpen=float("nan")) == pytest.approx(0.1)
    assert face.joints(np.full((7, 52), 2.0)).shape == (7, 1)


def test_blendshapes_are_found_by_name_in_any_order():
    weights = weights_by_name(["tongueOut", "unknown", "eyeBlinkLeft"], [0.3, 0.9, 0.2])
    assert weights[0] == 0.2 and weights[-1] == 0.3 and weights.sum() == pytest.approx(0.5)


def test_the_head_that_comes_with_the_package_shows_all_but_what_its_rigid_parts_cannot():
    moves = FaceMap.load("head").gains.any(axis=0)
    unused = {name for name, used in zip(ARKIT_BLENDSHAPES, moves, strict=True) if not used}
    assert len(ARKIT_BLENDSHAPES) - len(unused) >= 44
    assert unused == {
        *("jawForward", "jawLeft", "jawRight", "mouthPressLeft", "mouthPressRight"),
        *("noseSneerLeft", "noseSneerRight", "tongueOut"),
    }


def changed(**fields) -> dict:
    content = copy.deepcopy(MINE)
    content["joints"][0].update(fields)
    return content


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "expected a mapping"),
        ({"name": "mine"}, "lacks joints"),
        ({"name": "mine", "joints": {}}, "expected a list"),
        (changed(blendshapes={"jawopen": 1.0}), "jawopen is no ARKit blendshape"),
        (changed(blendshapes={"jawOpen": "much"}), "jawOpen is 'much'; expected a finite number"),
        (changed(limits={"position": {"min": 0.2, "max": 0.1}}), "expected min below max"),
        (changed(limits={"min": 0.2, "max": 0.1}), "limits: position holds None"),
        (changed(rest=0.9), "rest is 0.9 with limits from 0 to 0.5"),
        (changed(ofset=0.9), "unknown key ofset"),
        ({"name": "mine", "joints": MINE["joints"] * 2}, "listed twice"),
    ],
)
def test_a_wrong_map_is_refused_with_a_sentence(content, sentence):
    with pytest.raises(TimarError) as error:
        FaceMap.from_dict(content, "mine.yaml")
    assert sentence in str(error.value) and "mine.yaml" in str(error.value)


def test_a_map_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(TimarError, match=r"no face map named 'kismet'.*head"):
        FaceMap.load("kismet")
    with pytest.raises(TimarError, match="cannot be read"):
        FaceMap.load(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("joints: [")
    with pytest.raises(TimarError, match="is not YAML"):
        FaceMap.load(tmp_path / "mine.yaml")
