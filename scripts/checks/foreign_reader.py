"""Computes exported networks without jaxcnn, for interchange.py: by onnxruntime, JAX and PyTorch.

python -I foreign_reader.py FOLDER

FOLDER has images.npy, jobs.json and the exported files; logits.npz is written. The networks of
state dicts are written down here once more, as functions of the dict that `torch.load` gives.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

State = dict[str, torch.Tensor]


def _conv(state: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    return functional.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)


def _norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    rows = (state[f"{name}.{row}"] for row in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, *rows)


def _norm_relu(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.relu(_norm(state, name, x))


def _linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _lenet(state: State, x: torch.Tensor, strides: list[int]) -> torch.Tensor:
    for name in ("conv1", "conv2"):
        x = functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = functional.max_pool2d(functional.relu(x), 2)
    x = functional.relu(_linear(state, "fc1", x.flatten(1)))
    return _linear(state, "fc3", functional.relu(_linear(state, "fc2", x)))


def _resnet(state: State, x: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """Basic blocks, with projections or with zeros on both sides."""
    x = _norm_relu(state, "bn1", _conv(state, "conv1", x))
    for stage in range(1, 5):
        block = 0
        while (name := f"layer{stage}.{block}") + ".conv1.weight" in state:
            stride = 2 if stage > 1 and block == 0 else 1
            y = _norm_relu(state, f"{name}.bn1", _conv(state, f"{name}.conv1", x, stride))
            y = _norm(state, f"{name}.bn2", _conv(state, f"{name}.conv2", y))
            if f"{name}.shortcut.0.weight" in state:
                x = _conv(state, f"{name}.shortcut.0", x, stride)
                x = _norm(state, f"{name}.shortcut.1", x)
            elif stride == 2:
                half = (y.shape[1] - x.shape[1]) // 2
                x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))
            x = functional.relu(x + y)
            block += 1
    return _linear(state, "linear", x.mean((2, 3)))


def _densenet(state: State, x: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """Blocks of layers with one convolution or two, [old, new]."""
    x, block = _conv(state, "conv1", x), 1
    while f"block{block}.layer.0.bn1.weight" in state:
        if block > 1:
            x = _norm_relu(state, f"trans{block - 1}.bn1", x)
            x = functional.avg_pool2d(_conv(state, f"trans{block - 1}.conv1", x), 2)
        layer = 0
        while (name := f"block{block}.layer.{layer}") + ".bn1.weight" in state:
            y = _conv(state, f"{name}.conv1", _norm_relu(state, f"{name}.bn1", x))
            if f"{name}.conv2.weight" in state:
                y = _conv(state, f"{name}.conv2", _norm_relu(state, f"{name}.bn2", y))
            x = torch.cat([x, y], 1)
            layer += 1
        block += 1
    return _linear(state, "fc", _norm_relu(state, "bn1", x).mean((2, 3)))


def _mobilenet(state: State, x: torch.Tensor, strides: list[int]) -> torch.Tensor:
    x = _norm_relu(state, "bn1", _conv(state, "conv1", x, strides[0]))
    for block, stride in enumerate(strides[1:]):
        name = f"layers.{block}"
        x = _norm_relu(state, f"{name}.bn1", _conv(state, f"{name}.conv1", x, stride))
        x = _norm_relu(state, f"{name}.bn2", _conv(state, f"{name}.conv2", x))
    return _linear(state, "linear", x.mean((2, 3)))


_NETWORKS = {
    "kuangliu lenet": _lenet,
    "kuangliu resnet": _resnet,
    "akamaster resnet": _resnet,
    "andreasveit densenet": _densenet,
    "kuangliu mobilenet": _mobilenet,
}


def _by_torch(file: Path, images: np.ndarray, content: dict[str, Any]) -> np.ndarray:
    state = torch.load(file, weights_only=True)
    mean, std = (torch.tensor(content[key]).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()
    with torch.no_grad():
        logits = _NETWORKS[content["network"]](state, (pixels - mean) / std, content["strides"])
    return np.asarray(logits)


def _by_jax(file: Path, images: np.ndarray) -> np.ndarray:
    from jax import export

    return np.asarray(export.deserialize(bytearray(file.read_bytes())).call(images))


def _by_onnxruntime(file: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images})
    return np.asarray(logits)


def _digest(file: Path) -> np.ndarray:
    """Returns a SHA-256 over the names, shapes and bytes of a safetensors file."""
    from safetensors.numpy import load_file

    arrays, total = load_file(file), hashlib.sha256()
    for name in sorted(arrays):
        total.update(f"{name} {arrays[name].shape}".encode())
        total.update(np.ascontiguousarray(arrays[name]).tobytes())
    return np.array(total.hexdigest())


def main() -> None:
    """Computes all jobs."""
    folder = Path(sys.argv[1])
    content = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    images = np.load(folder / "images.npy")
    results: dict[str, Any] = {}
    for job in content["jobs"]:
        file, format = folder / job["file"], job["format"]
        if format == "torch":
            results[format] = _by_torch(file, images, content)
        elif format == "safetensors":
            results[format] = _digest(file)
        else:
            results[format] = {"onnx": _by_onnxruntime, "stablehlo": _by_jax}[format](file, images)
    assert "jaxcnn" not in sys.modules
    np.savez(folder / "logits.npz", **results)


if __name__ == "__main__":
    main()
