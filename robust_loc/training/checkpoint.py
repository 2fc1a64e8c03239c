"""Training checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is a folder ``step_00001200`` with ``state.json`` (structure and numbers) and
``tensors_000.safetensors``, ..., each under 16 MB. The folder is written under another name and renamed, so a killed
run leaves the last complete one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_loc.data.files import writing
from robust_loc.errors import WeightsError

SHARD_BYTES = 15 * 2**20
_PREFIX = "step_"
_FORMAT = 1


def save_checkpoint(folder: str | Path, step: int, state: dict[str, Any], keep: int = 2) -> Path:
    """Write ``state`` (nested dicts and lists of tensors, numbers, strings) as ``folder/step_<step>``.

    Args:
        folder: of the run; created if needed.
        step: training step; an existing checkpoint of the same step is replaced.
        keep: number of newest checkpoints that stay.

    Returns:
        The checkpoint's folder.

    Raises:
        OutputError: full disk or no permission; the checkpoints before it stay.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    final = folder / f"{_PREFIX}{step:08d}"
    partial = folder / f".{final.name}.{os.getpid()}.part"
    shutil.rmtree(partial, ignore_errors=True)
    tensors: dict[str, Tensor] = {}
    document = {"format": _FORMAT, "step": step, "state": _encode(state, "", tensors)}
    try:
        with writing(final):
            partial.mkdir(parents=True)
            for number, shard in enumerate(_shards(tensors)):
                save_file(shard, str(partial / f"tensors_{number:03d}.safetensors"))
            (partial / "state.json").write_text(json.dumps(document))
            if final.exists():
                shutil.rmtree(final)
            partial.replace(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def checkpoints(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in Path(folder).glob(f"{_PREFIX}*") if (p / "state.json").is_file())


def load_checkpoint(path: str | Path) -> tuple[int, dict[str, Any]]:
    """Read a checkpoint, or the newest one of a run's folder.

    Returns:
        Its step and state.

    Raises:
        WeightsError: if there is none, or it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not (path / "state.json").is_file():
        found = checkpoints(path)
        if not found:
            raise WeightsError(f"{path}: holds no checkpoint (expected folders {_PREFIX}<number> with a state.json)")
        path = found[-1]
    try:
        document = json.loads((path / "state.json").read_text())
        pieces: dict[str, Tensor] = {}
        for shard in sorted(path.glob("tensors_*.safetensors")):
            pieces.update(load_file(str(shard)))
        if document["format"] != _FORMAT:
            raise WeightsError(f"{path}: is a checkpoint of format {document['format']}; this version reads {_FORMAT}")
        return int(document["step"]), _decode(document["state"], pieces)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{path}: is a damaged checkpoint: {error}") from error


def random_state() -> dict[str, Any]:
    """The global generators' states (torch's CPU and CUDA, numpy's)."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (libraries use it)
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.array(keys)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo everything drawn since :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``; its tensors go into ``tensors``, in pieces that fit a shard."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        rows = max(1, SHARD_BYTES // flat.element_size())
        pieces = []
        for number, start in enumerate(range(0, max(1, len(flat)), rows)):
            piece = f"{name}#{number}"
            tensors[piece] = flat[start : start + rows].clone()
            pieces.append(piece)
        return {"__tensor__": pieces, "shape": list(value.shape)}
    if isinstance(value, dict):
        # Keys are kept as pairs: an optimizer's state has integer keys, which JSON objects cannot hold.
        return {"__dict__": [[k, _encode(v, f"{name}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_encode(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a checkpoint cannot hold a {type(value).__name__}")


def _decode(value: Any, pieces: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "__tensor__" in value:
            parts = [pieces[name] for name in value["__tensor__"]]
            return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(value["shape"])
        return {k: _decode(v, pieces) for k, v in value["__dict__"]}
    if isinstance(value, list):
        return [_decode(v, pieces) for v in value]
    return value


def _shards(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        nbytes = tensor.numel() * tensor.element_size()
        if shard and size + nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += nbytes
    if shard:
        yield shard
