"""Checkpoints: exact, in small files, never half written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_loc.errors import WeightsError
from robust_loc.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def test_nested_state_comes_back_exactly(tmp_path):
    state = {
        "tensors": {"a": torch.randn(3, 4), "b": torch.arange(5), "scalar": torch.tensor(2.5, dtype=torch.float64)},
        "list": [1, 2.5, "text", None, True, {"deep": torch.ones(2, dtype=torch.bfloat16)}],
        "integer keys": {0: {"x": 1}, 1: torch.zeros(0)},
        "large integer": 2**100,
        "numpy": np.float64(0.1),
    }
    save_checkpoint(tmp_path, 12, state)
    step, loaded = load_checkpoint(tmp_path)
    assert step == 12
    assert loaded["list"][:5] == state["list"][:5] and loaded["large integer"] == 2**100 and loaded["numpy"] == 0.1
    for name, tensor in state["tensors"].items():
        assert torch.equal(loaded["tensors"][name], tensor) and loaded["tensors"][name].dtype == tensor.dtype
    assert loaded["list"][5]["deep"].dtype == torch.bfloat16
    assert loaded["integer keys"][0] == {"x": 1} and loaded["integer keys"][1].shape == (0,)


def test_no_file_reaches_16_megabytes_even_for_a_larger_tensor(tmp_path):
    large = torch.randn(6_000_000)  # 24 MB
    path = save_checkpoint(tmp_path, 1, {"large": large, "small": torch.ones(3)})
    assert max(file.stat().st_size for file in path.iterdir()) < 16 * 10**6
    assert torch.equal(load_checkpoint(path)[1]["large"], large)


def test_newest_checkpoints_stay_and_a_half_written_one_is_ignored(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"value": step}, keep=2)
    (tmp_path / "step_00000009").mkdir()  # a folder without its state.json
    assert [p.name for p in checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert load_checkpoint(tmp_path)[1]["value"] == 3


def test_damage_and_absence_are_named(tmp_path):
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    path = save_checkpoint(tmp_path, 1, {"x": torch.ones(100)})
    shard = next(path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(path)


def test_random_numbers_repeat_after_restoring(tmp_path):
    save_checkpoint(tmp_path, 1, {"random": random_state()})
    expected = torch.rand(4), np.random.rand(4)  # noqa: NPY002
    restore_random_state(load_checkpoint(tmp_path)[1]["random"])
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.rand(4), expected[1])  # noqa: NPY002
