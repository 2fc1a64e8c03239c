"""Networks as files for other runtimes: ONNX (onnxruntime, with TensorRT or CUDA where it has them), torch.export.

An exported network has a fixed image size. It stands in for the module it was made from: the same tensors in, the same
tensors out. The file says what it is, so that a wrong one is refused with the reason.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_loc.errors import WeightsError

PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")  # in order of preference
_KEY = "robust_loc"


@dataclass(frozen=True)
class Description:
    """What a file holds: ``kind`` of network, its input's shape, and ``facts`` about it (widths, fingerprint)."""

    kind: str
    shape: tuple[int, ...]
    facts: dict[str, Any]


def export(module: nn.Module, description: Description, path: str | Path) -> None:
    """Write ``module`` for float32 inputs of ``description.shape`` to ``path`` (.onnx or .pt2), atomically.

    Raises:
        WeightsError: another suffix, or the onnx package is missing.
    """
    path = Path(path)
    example = torch.zeros(description.shape)
    text = json.dumps([description.kind, list(description.shape), description.facts])
    partial = path.with_name(f".partial-{path.name}")
    module = module.cpu().eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            if path.suffix == ".pt2":
                torch.export.save(torch.export.export(module, (example,)), partial, extra_files={_KEY: text})
            elif path.suffix == ".onnx":
                _write_onnx(module, example, partial, text)
            else:
                raise WeightsError(f"{path}: exported networks are .onnx or .pt2 files")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_onnx(module: nn.Module, example: Tensor, path: Path, text: str) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise WeightsError(f"{path}: writing ONNX needs the packages onnx and onnxscript: {error}") from error
    program = torch.onnx.export(module, (example,), dynamo=True, verbose=False)
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {_KEY: text})
    onnx.save(model, str(path))


class ExportedNetwork:
    """An exported network, loaded.

    Args:
        path: .onnx (needs onnxruntime) or .pt2.
        kind: what it must be.
        device: where a .pt2 runs; onnxruntime takes the best provider it has, on a CPU device the CPU's.
        threads: of onnxruntime on a CPU.

    Raises:
        WeightsError: missing or unreadable file, another kind of network, or a missing runtime.
    """

    def __init__(self, path: str | Path, kind: str, device: str | torch.device = "cpu", threads: int = 1) -> None:
        self.path, self.device = Path(path), torch.device(device)
        if not self.path.is_file():
            raise WeightsError(f"{path}: no such exported network")
        self._session: Any = None
        self._module: Any = None
        text = self._open_onnx(threads) if self.path.suffix == ".onnx" else self._open_torch()
        try:
            found, shape, facts = json.loads(text)
            self.description = Description(found, tuple(shape), facts)
        except (ValueError, TypeError) as error:
            raise WeightsError(f"{path}: not exported by robust-loc: it does not say what it is") from error
        if self.description.kind != kind:
            raise WeightsError(f"{path}: holds {self.description.kind!r}; expected {kind!r}")

    def _open_onnx(self, threads: int) -> str:
        try:
            import onnxruntime
        except ImportError as error:
            raise WeightsError(f"{self.path}: running it needs the package onnxruntime: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        there = onnxruntime.get_available_providers()
        wanted = PROVIDERS[-1:] if self.device.type == "cpu" else PROVIDERS
        chosen = [name for name in wanted if name in there]
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=chosen)
        except Exception as error:  # onnxruntime raises types of its own
            cause = str(error).splitlines()[0]
            raise WeightsError(f"{self.path}: not a readable ONNX model: {cause}") from error
        return str(self._session.get_modelmeta().custom_metadata_map.get(_KEY, ""))

    def _open_torch(self) -> str:
        facts = {_KEY: ""}
        try:
            program = torch.export.load(str(self.path), extra_files=facts)
        except Exception as error:  # torch raises many types on corrupt files
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{self.path}: not a readable exported program: {cause}") from error
        self._module = program.module().to(self.device)
        return facts[_KEY]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs; WeightsError when ``x`` has another shape than the network was exported for."""
        if tuple(x.shape) != self.description.shape:
            expected, found = ("x".join(map(str, shape)) for shape in (self.description.shape, x.shape))
            raise WeightsError(f"{self.path}: exported for inputs of {expected}, not {found}: export it for this size")
        if self._session is None:
            with torch.no_grad():
                outputs = self._module(x.float())
            return outputs if isinstance(outputs, tuple) else (outputs,)
        name = self._session.get_inputs()[0].name
        found = self._session.run(None, {name: x.float().contiguous().cpu().numpy()})
        return tuple(torch.from_numpy(array).to(x.device) for array in found)


class Outputs(nn.Module):
    """Several modules of one input, side by side: the outputs of all."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(part(x) for part in self.parts)
