"""The tree of coordinate frames that a recording's ``/tf`` and ``/tf_static`` describe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from robust_loc.data.messages import rigid, stamp_of
from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import BagTopicError, TrajectoryError
from robust_loc.types import FloatArray


class TransformTree:
    """Transforms between frames, fixed or over time."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._fixed: dict[str, FloatArray] = {}  # child -> parent_T_child
        self._moving: dict[str, Trajectory] = {}

    @classmethod
    def from_messages(
        cls, transforms: Iterable[tuple[Any, bool]], lose: Callable[[str], None] = lambda loss: None
    ) -> TransformTree:
        """From ``(geometry_msgs/TransformStamped, is_static)`` pairs; of two parents of a frame the later wins.

        ``lose`` is told of transforms that are no transform (not finite, zero quaternion); they are left out.
        """
        tree = cls()
        samples: dict[str, dict[int, FloatArray]] = {}
        for transform, is_static in transforms:
            child = transform.child_frame_id.lstrip("/")
            try:
                pose = rigid(transform.transform.translation, transform.transform.rotation)
            except TrajectoryError as error:
                lose(f"a transform of {child}: {error}; left out")
                continue
            tree._parent[child] = transform.header.frame_id.lstrip("/")
            if is_static:
                tree._fixed[child] = pose
            else:
                samples.setdefault(child, {})[stamp_of(transform)] = pose
        for child, poses in samples.items():
            stamps = sorted(poses)
            tree._moving[child] = Trajectory(np.array(stamps), np.array([poses[stamp] for stamp in stamps]))
        return tree

    @property
    def frames(self) -> list[str]:
        """Every frame's name."""
        return sorted({*self._parent, *self._parent.values()})

    def parent(self, frame: str) -> str | None:
        return self._parent.get(frame)

    def lookup(self, target: str, source: str, stamp: int | None = None) -> FloatArray | None:
        """``target_T_source`` (4x4) at ``stamp`` (None: fixed transforms only), or None where nothing joins them."""
        up_target, up_source = self._ancestors(target), self._ancestors(source)
        common = next((frame for frame in up_source if frame in up_target), None)
        if common is None:
            return None
        common_T_source = self._climb(source, common, stamp)
        common_T_target = self._climb(target, common, stamp)
        if common_T_source is None or common_T_target is None:
            return None
        return np.linalg.inv(common_T_target) @ common_T_source

    def trajectory(self, parent: str, child: str) -> Trajectory:
        """The motion of ``child`` in ``parent`` at the stamps of the moving transform nearest to ``child``.

        Raises:
            BagTopicError: the frames are not joined by a moving transform.
        """
        moving = next((frame for frame in self._ancestors(child) if frame in self._moving), None)
        poses = []
        if moving is not None:
            for stamp in self._moving[moving].stamps:
                pose = self.lookup(parent, child, int(stamp))
                if pose is not None:
                    poses.append((int(stamp), pose))
        if not poses:
            raise BagTopicError(
                f"no transform over time from {child} to {parent}; the frames are {', '.join(self.frames) or 'none'}"
            )
        return Trajectory(np.array([stamp for stamp, _ in poses]), np.array([pose for _, pose in poses]))

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while chain[-1] in self._parent and self._parent[chain[-1]] not in chain:
            chain.append(self._parent[chain[-1]])
        return chain

    def _climb(self, frame: str, ancestor: str, stamp: int | None) -> FloatArray | None:
        pose = np.eye(4)
        while frame != ancestor:
            step = self._fixed.get(frame)
            if step is None and stamp is not None and frame in self._moving:
                step = self._moving[frame].at(stamp, maximum_gap=1_000_000_000)
            if step is None:
                return None
            pose = step @ pose
            frame = self._parent[frame]
        return pose
