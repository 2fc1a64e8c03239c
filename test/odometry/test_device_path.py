"""What a GPU runs, run on the CPU: batched torch operations in place of compiled kernels, with the same answers."""

from __future__ import annotations

import numpy as np
import torch
from odometry_frames import sequence
from test_tracker import CONFIG

from robust_loc.geometry.lie import SE3
from robust_loc.odometry import Odometry, PatchNetwork, correlation
from robust_loc.odometry import bundle_adjustment as ba
from robust_loc.odometry.operator import NetworkOperator
from robust_loc.odometry.weights import default_weights
from robust_loc.types import Frame

allocate = NetworkOperator._allocate


def answers(frames: list[Frame]) -> tuple[Odometry, list[np.ndarray]]:
    odometry = Odometry(CONFIG, PatchNetwork.from_checkpoint(default_weights()))
    return odometry, [odometry.update(frame).world_T_cam for frame in frames]


def test_torch_operations_alone_give_the_compiled_kernels_answers(monkeypatch) -> None:
    """Through start-up and into tracking. Single precision: differences grow from frame to frame."""
    frames = sequence(18)[::2]
    compiled, expected = answers(frames)

    def batched(poses: torch.Tensor, *rest) -> ba.NormalEquations:
        used.append("normal equations")
        return ba._differentiable_normal_equations(SE3(poses), *rest)

    def gathered(*arguments) -> torch.Tensor:
        used.append("correlation")
        return correlation._forward_chunked(*arguments)

    used: list[str] = []
    monkeypatch.setattr(ba, "_compiled_normal_equations", batched)
    monkeypatch.setattr(correlation, "_forward_cpu", gathered)
    monkeypatch.setattr(NetworkOperator, "_allocate", _allocate_as_on_a_gpu)
    on_gpu, found = answers(frames)
    assert compiled.initialized and on_gpu.initialized
    assert {"normal equations", "correlation"} <= set(used)
    assert not on_gpu._operator._by_frame
    np.testing.assert_allclose(found, expected, atol=1e-3)


def _allocate_as_on_a_gpu(operator, found) -> None:
    operator._by_frame = False
    allocate(operator, found)
