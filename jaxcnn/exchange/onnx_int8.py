"""An ONNX model with 8-bit integers: weights by channel, activations by their range on images.

onnxruntime's static quantization (https://onnxruntime.ai/docs/performance/model-optimizations):
each convolution and dense layer computes with integers, between nodes that quantize and dequantize.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization import shape_inference

from jaxcnn.exchange import onnx_graph

CALIBRATION_IMAGES = 512
"""Training images on which the ranges of activations are found."""

_BATCH = 64
# The pixels' own normalization stays in floats: it is cheap, and the stem reads its result.
_QUANTIZED = ("Conv", "Gemm", "Add", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool")


class _Images(quantization.CalibrationDataReader):
    """Images in batches, as the library asks for them."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[np.ndarray] = iter(
            np.array_split(images, max(1, len(images) // _BATCH))
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next batch by the name of the model's input; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {onnx_graph.INPUT: batch}


def quantize(source: Path, path: Path, images: np.ndarray) -> None:
    """Writes the model of `source` with 8-bit integers.

    Args:
        source: A model of `onnx_graph`.
        path: The file to write.
        images: uint8 `[N, H, W, C]`, of the training split.
    """
    logger = logging.getLogger()
    level = logger.level
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            logger.setLevel(logging.ERROR)  # the library recommends what is done here
            # Folds norms into convolutions, which then are quantized as one.
            shape_inference.quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantization.quantize_static(
                prepared,
                path,
                _Images(images),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                # Seven bits of weights: without VNNI, sums of products with eight overflow.
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logger.setLevel(level)
    model = onnx.load(path)
    original: Any = onnx.load(source)
    onnx.helper.set_model_props(
        model, {entry.key: entry.value for entry in original.metadata_props}
    )
    path.write_bytes(model.SerializeToString(deterministic=True))
