"""Writing a policy as ONNX and TorchScript, and running what was written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_strl.common.errors import StrlError, StrlTypeError, StrlValueError
from sb3_strl.export.module import ExportedPolicy

METADATA = "metadata.json"
FILES = {"onnx": "model.onnx", "torchscript": "model.pt"}
_NEEDS = {"onnx": ("onnx", "onnxruntime"), "torchscript": ()}
_OPSET = 17

Arrays = dict[str, np.ndarray[Any, Any]]
Runner = Callable[[Arrays], Arrays]
"""Runs a file: arrays by input name in, arrays by output name out."""


def check_installed(format_name: str) -> None:
    """
    Refuse a format whose packages are missing.

    :raises StrlTypeError: if one is
    """
    missing = [name for name in _NEEDS[format_name] if find_spec(name) is None]
    if missing:
        raise StrlTypeError(
            f"export_policy: the format '{format_name}' needs {missing}, which is not installed. "
            "Install it with pip install 'sb3_strl[export]', or leave the format out."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer: the proof that follows is stricter than its doubts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _trace(module: ExportedPolicy) -> Any:
    """Return the module as a graph; its number of environments stays open."""
    with _quiet(), th.no_grad():
        return th.jit.trace(module, module.example(), check_trace=False)


def write_torchscript(module: ExportedPolicy, path: Path, metadata: dict[str, Any]) -> None:
    """
    Write a traced module; ``metadata.json`` is among its extra files.

    :param module: what to write
    :param path: file name
    :param metadata: JSON-able
    """
    extra = {METADATA: json.dumps(metadata).encode()}
    with _quiet():
        th.jit.save(_trace(module), str(path), _extra_files=extra)


def write_onnx(module: ExportedPolicy, path: Path, metadata: dict[str, Any]) -> None:
    """
    Write an ONNX file; the metadata are its property ``sb3_strl``.

    :param module: what to write
    :param path: file name
    :param metadata: JSON-able
    """
    import onnx

    axes = {name: {dim: "n_envs"} for name, dim in module.batch_dims().items()}
    # The exporter by torch.export fixes the number of environments wherever a stage asks for the
    # length of a batch. The one by tracing gets a finished trace: left to trace by itself it
    # guesses that number for images.
    with _quiet(), th.no_grad():
        th.onnx.export(
            _trace(module),
            module.example(),
            str(path),
            input_names=module.input_names,
            output_names=module.output_names,
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )
    model = onnx.load(str(path))
    onnx.checker.check_model(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sb3_strl", json.dumps(metadata)
    onnx.save(model, str(path))


WRITERS = {"onnx": write_onnx, "torchscript": write_torchscript}


def _onnx_runner(path: Path, module: ExportedPolicy) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # An input that nothing depends on is not in the file.
    read = {item.name for item in session.get_inputs()}

    def run(inputs: Arrays) -> Arrays:
        given = {name: value for name, value in inputs.items() if name in read}
        return dict(zip(module.output_names, session.run(None, given), strict=True))

    return run


def _torchscript_runner(path: Path, module: ExportedPolicy) -> Runner:
    with _quiet():
        loaded: Any = th.jit.load(str(path))

    def run(inputs: Arrays) -> Arrays:
        tensors = [th.as_tensor(inputs[name]) for name in module.input_names]
        with th.no_grad():
            outputs = loaded(*tensors)
        return {
            name: value.numpy() for name, value in zip(module.output_names, outputs, strict=True)
        }

    return run


def make_runner(format_name: str, path: Path, module: ExportedPolicy) -> Runner:
    """
    Load a file for inference on the CPU.

    :param format_name: ``"onnx"`` or ``"torchscript"``
    :param path: file name
    :param module: what was written: the names of inputs and outputs
    :raises StrlValueError: if the file cannot be loaded, or later, if it cannot be run
    """
    make = _onnx_runner if format_name == "onnx" else _torchscript_runner
    with explained(format_name, "loaded"):
        run = make(path, module)

    def explained_run(inputs: Arrays) -> Arrays:
        with explained(format_name, "run"):
            return run(inputs)

    return explained_run


@contextmanager
def explained(format_name: str, done: str) -> Iterator[None]:
    """
    Say of what a format's packages raise which file it is about.

    :param format_name: ``"onnx"`` or ``"torchscript"``
    :param done: what was tried with the file, a participle
    :raises StrlValueError: instead of an error of the packages
    """
    try:
        yield
    except (StrlError, OSError):
        raise
    except Exception as error:  # ONNX Runtime has a dozen classes without a common one
        others = [name for name in FILES if name != format_name]
        lines = str(error).strip().splitlines() or [""]
        # TorchScript says it last, after a page of its own code.
        said = lines[-1 if format_name == "torchscript" else 0]
        raise StrlValueError(
            f"export_policy: the {format_name} file cannot be {done} ({type(error).__name__}: "
            f"{said}). Expected a policy of operations that the format has, so nothing was "
            f"written. Pass formats={others} (--formats {' '.join(others)}), and report it."
        ) from error
