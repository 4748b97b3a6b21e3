"""Convolution, pooling and norms that are fast on the CPU, and the stock primitives elsewhere."""

from jaxcnn.ops.activations import gelu, relu
from jaxcnn.ops.conv.api import conv_general_dilated
from jaxcnn.ops.dense_block.op import dense_block
from jaxcnn.ops.lowering import CPU_COMPILER_OPTIONS, YNN_FUSIONS
from jaxcnn.ops.norm import at_least_float32, moments, normalize
from jaxcnn.ops.norm_conv import norm_relu_conv
from jaxcnn.ops.onednn_calls import are_in as calls_onednn
from jaxcnn.ops.onednn_calls import is_present as has_onednn
from jaxcnn.ops.onednn_calls import uncached
from jaxcnn.ops.onednn_calls import without as without_onednn
from jaxcnn.ops.pooling import avg_pool, max_pool
from jaxcnn.ops.substitute import accelerate

__all__ = [
    "CPU_COMPILER_OPTIONS",
    "YNN_FUSIONS",
    "accelerate",
    "at_least_float32",
    "avg_pool",
    "calls_onednn",
    "conv_general_dilated",
    "dense_block",
    "gelu",
    "has_onednn",
    "max_pool",
    "moments",
    "norm_relu_conv",
    "normalize",
    "relu",
    "uncached",
    "without_onednn",
]
