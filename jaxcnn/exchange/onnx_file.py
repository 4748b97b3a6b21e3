"""ONNX files: written by the library onnx, run by onnxruntime; both are the extra `onnx`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.exchange.subject import Subject

_WARNINGS_OFF = 3  # of onnxruntime's severities, errors alone


def check_installed() -> None:
    """Raises UserError if a library is missing."""
    for library in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"--format onnx needs the library {library}: install it with "
                "pip install 'jaxcnn[onnx]', or choose another format"
            )


def write(subject: Subject, path: Path) -> None:
    """Writes a model from uint8 `[batch, H, W, C]` to float32 logits `[batch, K]`."""
    from jaxcnn.exchange import onnx_graph

    path.write_bytes(onnx_graph.build(subject).SerializeToString(deterministic=True))


def read(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the model as a function of images, computed by onnxruntime on the CPU.

    Raises:
        UserError: If the file holds none that onnxruntime takes.
    """
    session = open_session(path)

    def predict(images: np.ndarray) -> np.ndarray:
        (logits,) = session.run(None, {session.get_inputs()[0].name: images})
        return logits

    return predict


def open_session(path: Path) -> Any:
    """Returns onnxruntime's session of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _WARNINGS_OFF
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its kinds of errors are not documented
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no model that onnxruntime takes ({reason})") from error
