"""Points given in other frames than the head's base, by tf2 where it is installed."""

from __future__ import annotations

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from timar_ros.errors import TimarError


class UnknownFrameError(TimarError):
    """tf2 knows no way from a frame, as yet; the text says which."""


class FramesOfReference:
    """Brings points into one base frame. tf2 is asked for only when a point is in another frame."""

    def __init__(self, node: Node, base_frame: str) -> None:
        self._node = node
        self._base_frame = base_frame
        self._buffer = None
        self._listener = None

    def destroy(self) -> None:
        """Hear tf no more."""
        if self._listener is not None:
            self._listener.unregister()

    def to_base(self, point: np.ndarray, header: Header) -> np.ndarray:
        """`point` [3], m, of a message with this header, in the base frame; an empty frame_id means that frame.

        Raises:
            UnknownFrameError: it is in another frame, and tf2 knows no way between the two; where tf2 has just begun to
                listen, it may know one soon.
            TimarError: it is in another frame, and tf2 is not installed.
        """
        if header.frame_id in ("", self._base_frame):
            return point
        transform = self._look_up(header)
        turn, shift = transform.rotation, transform.translation
        rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])
        return rotation.apply(point) + (shift.x, shift.y, shift.z)

    def _look_up(self, header: Header):
        try:
            import tf2_ros
        except ImportError as error:
            raise TimarError(
                f"~/look_at is in the frame {header.frame_id!r} and tf2_ros is not installed ({error}); expected "
                f"points in the head's base frame {self._base_frame!r}. Send such points, or install it with: "
                "sudo apt install ros-$ROS_DISTRO-tf2-ros-py"
            ) from error
        if self._buffer is None:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, self._node)
        try:
            # The newest there is: a gaze target moves slowly, and waiting here would hold up everything else.
            found = self._buffer.lookup_transform(self._base_frame, header.frame_id, Time(), Duration())
        except tf2_ros.TransformException as error:
            raise UnknownFrameError(
                f"~/look_at is in the frame {header.frame_id!r}, from which tf2 knows no way to {self._base_frame!r} "
                f"({error}). Check that robot_state_publisher runs and that both frames exist."
            ) from error
        return found.transform
