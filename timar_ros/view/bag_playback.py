"""Plays a recorded conversation to a viewer: play, pause, seek."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from timar_ros.errors import TimarError
from timar_ros.replay.recording import Recording, Signal
from timar_ros.robot.face_map import FaceMap
from timar_ros.stream.frames import PARTNER, SELF
from timar_ros.view.shown import NECK, SECONDS, Joints, Recent, Shown, has_our_neck, in_order, status_line

ANGLE_RATE_HZ = 25.0


class BagPlayback:
    """A `Source` that shows what was seen at `position_s`, which moves with `clock_s` while playing.

    Args:
        own_urdf: what is shown is the robot itself, and not the head that comes with the package.

    Raises:
        TimarError: the recording holds nothing that moves a head.
    """

    def __init__(
        self, recording: Recording, face: FaceMap, clock_s: Callable[[], float], own_urdf: bool = False
    ) -> None:
        signals = [s for s in (recording.joint_states, recording.blendshapes, recording.head_pose) if s]
        if not signals:
            raise TimarError(
                f"the recording {recording.path} holds neither joint states nor blendshapes nor head poses; expected "
                "the topics of a running head node; record them (`ros2 run timar_ros recorder`)"
            )
        self.playing = True
        self._recording = recording
        self._face = face
        self._clock_s = clock_s
        self._begin_ns = min(int(s.times_ns.min()) for s in signals)
        self.duration_s = (max(int(s.times_ns.max()) for s in signals) - self._begin_ns) * 1e-9
        self._position_s = 0.0
        self._at_s = clock_s()
        statuses = recording.diagnostics.values()
        robots = [status.values["robot"] for status in statuses if "robot" in status.values]
        self._neck_is_told = own_urdf or all(has_our_neck(robot) for robot in robots)
        self._angles = self._all_angles()
        self._lines = in_order({s.name: status_line(s.name, s.level > 0, s.message, s.values) for s in statuses})

    @property
    def position_s(self) -> float:
        """Where playback is, s from the bag's first motion; it begins again at the end."""
        now_s = self._clock_s()
        if self.playing:
            self._position_s += now_s - self._at_s
            if self._position_s > self.duration_s:
                self._position_s = 0.0
        self._at_s = now_s
        return self._position_s

    def seek(self, position_s: float) -> None:
        """Go on from there."""
        self._position_s = min(max(position_s, 0.0), self.duration_s)
        self._at_s = self._clock_s()

    def play(self, playing: bool) -> None:
        self._position_s = self.position_s
        self.playing = playing

    def shown(self) -> Shown:
        time_ns = self._begin_ns + round(self.position_s * 1e9)
        joints = Joints(self._face)
        joints.neck_is_told = self._neck_is_told
        recording = self._recording
        if (face := _row(recording.blendshapes, time_ns)) is not None:
            joints.blendshapes(recording.blendshapes.names, face)
        if (pose := _row(recording.head_pose, time_ns)) is not None:
            joints.head_pose(pose)
        if (state := _row(recording.joint_states, time_ns)) is not None:
            joints.joint_states(recording.joint_states.names, state, 0.0)
        values: dict[str, str | None] = {"floor": None}
        for row, spans in self._spans().items():
            values[row] = next((s.value for s in spans if s.start_ns <= time_ns < s.end_ns), "" if spans else None)
        muted = frozenset(
            party
            for party, spans in recording.muted.items()
            if any(s.start_ns <= time_ns < s.end_ns and s.value for s in spans)
        )
        return Shown(joints.at(0.0), values, muted, self._lines)

    def recent(self) -> Recent:
        position_s = self.position_s
        times, angles = self._angles
        inside = (times > position_s - SECONDS) & (times <= position_s)
        now_ns = self._begin_ns + round(position_s * 1e9)
        spans = {
            row: [
                (max((s.start_ns - now_ns) * 1e-9, -SECONDS), min((s.end_ns - now_ns) * 1e-9, 0.0), s.value)
                for s in of_row
                if s.start_ns <= now_ns and s.end_ns > now_ns - SECONDS * 1e9
            ]
            for row, of_row in self._spans().items()
        }
        return Recent(times[inside] - position_s, angles[inside], spans)

    def _spans(self) -> dict:
        speaking = self._recording.speaking
        return {"self": speaking.get(SELF, []), "partner": speaking.get(PARTNER, []), "floor": self._recording.floor}

    def _all_angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Times [n] s and angles [n, 3] deg of the neck, all through the bag."""
        recording = self._recording
        times_s = np.arange(0.0, self.duration_s, 1.0 / ANGLE_RATE_HZ)
        states, pose = recording.joint_states, recording.head_pose
        if self._neck_is_told and states is not None and set(NECK) <= set(states.names):
            source_ns, angles = states.times_ns, np.stack([states.column(name) for name in NECK], axis=1)
        elif pose is not None:
            source_ns, angles = pose.times_ns, recording.head_rpy()[:, ::-1]  # roll, pitch, yaw -> yaw, pitch, roll
        else:
            return times_s, np.zeros((len(times_s), len(NECK)))
        at_s = np.maximum.accumulate((source_ns - self._begin_ns) * 1e-9)
        return times_s, np.degrees(np.stack([np.interp(times_s, at_s, column) for column in angles.T], axis=1))


def _row(signal: Signal | None, time_ns: int) -> np.ndarray | None:
    """The values that were last received by then, None before the first."""
    if signal is None:
        return None
    index = int(np.searchsorted(signal.times_ns, time_ns, side="right")) - 1
    return signal.values[index] if index >= 0 else None
