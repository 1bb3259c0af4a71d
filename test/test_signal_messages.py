"""Signals read from their bytes are what rosbags makes of the whole messages, and broken bytes are refused."""

import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from timar_ros.replay.signal_messages import SignalReader

STORE = get_typestore(Stores.ROS2_JAZZY)
NAMES = ["yaw", "pitch_joint", "r", ""]


def header(frame_id: str = "no_sound"):
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=1_700_000_000, nanosec=123_456_789)
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def joint_state(values, frame_id="no_sound"):
    none = np.zeros(0)
    return STORE.types["sensor_msgs/msg/JointState"](header(frame_id), NAMES, np.array(values), none, none)


def trajectory(points):
    kind, none = STORE.types["trajectory_msgs/msg/JointTrajectoryPoint"], np.zeros(0)
    start = STORE.types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
    points = [kind(np.array(positions), none, none, none, start) for positions in points]
    return STORE.types["trajectory_msgs/msg/JointTrajectory"](header(), NAMES, points)


def bytes_of(message, little_endian: bool = True) -> bytes:
    return bytes(STORE.serialize_cdr(message, message.__msgtype__, little_endian=little_endian))


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("frame_id", ["", "a", "ab", "abc", "no_sound"])  # all alignments of what follows
def test_joint_states_are_read_by_name_whatever_lies_before_them(frame_id, little_endian):
    reader = SignalReader()
    for values in ([0.1, -0.2, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]):  # the second time the names are known
        data = bytes_of(joint_state(values, frame_id), little_endian)
        message = reader.read("sensor_msgs/msg/JointState", data)
        assert message[:3] == (1_700_000_000_123_456_789, frame_id, tuple(NAMES))
        assert message.values.tolist() == values


def test_a_trajectory_is_its_first_point_and_zeros_where_it_has_none():
    reader, kind = SignalReader(), "trajectory_msgs/msg/JointTrajectory"
    points = [[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0]]
    assert reader.read(kind, bytes_of(trajectory(points))).values.tolist() == points[0]
    assert reader.read(kind, bytes_of(trajectory([]))).values.tolist() == [0.0] * 4


def test_a_quaternion_is_four_numbers():
    quaternion = STORE.types["geometry_msgs/msg/Quaternion"](x=0.1, y=0.2, z=0.3, w=0.9)
    message = STORE.types["geometry_msgs/msg/QuaternionStamped"](header(), quaternion)
    read = SignalReader().read("geometry_msgs/msg/QuaternionStamped", bytes_of(message))
    assert read.names == ("x", "y", "z", "w") and read.values.tolist() == [0.1, 0.2, 0.3, 0.9]


def test_bytes_that_break_off_are_refused_wherever():
    data = bytes_of(joint_state([1.0, 2.0, 3.0, 4.0]))
    whole = len(data) - 8  # the lengths of the two empty sequences at the end are not read
    for end in range(whole):
        with pytest.raises(ValueError):
            SignalReader().read("sensor_msgs/msg/JointState", data[:end])
    assert SignalReader().read("sensor_msgs/msg/JointState", data[:whole]).values.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_another_type_is_refused_by_name():
    with pytest.raises(ValueError, match="std_msgs/msg/String is not one of sensor_msgs"):
        SignalReader().read("std_msgs/msg/String", bytes(16))
