"""How a dense block is computed on the CPU: the arithmetic behind `op.dense_block`.

**No concatenation.** The block's features lie in one array, `[S, N, H, W, C]`: S devices that share
the batch, N images of each; a single device has no axis S. A layer reads the first channels and
writes its own behind them.

**Few images at a time.** What is normalized, rectified, laid out as patches or masked stays in the
cache, and memory sees each feature once a layer (twice in the backward pass).

**Patches of the few channels.** With h = relu(a x + b), the 3x3 convolution to few new channels k
is the matrix product of h and the kernel as `[C, 9 k]`, then nine shifted additions of k channels.
Both gradients need the patches of the k channels alone, not those of h, which has many times more.

**Deferred gradients.** The gradient of a norm with respect to its input x, from the gradient g of
its output, is `a g + constant + factor (x - mean)` for each channel, with constant and factor from
sums over the whole batch (Ioffe & Szegedy 2015, arXiv:1502.03167, sec. 3, rearranged). So the first
term can be added while the batch is being read, and the rest only afterwards. All layers see the
same mean and variance of a channel, so their constants and factors add up: they are deferred
(`DeferredGrad`) until the layer that made the channel is reached, which reads it anyway.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.ops import onednn_calls
from jaxcnn.ops.chunks import chunk_size
from jaxcnn.ops.conv.im2col import side_by_side
from jaxcnn.ops.norm import along

# Float32 numbers in one of the widest vectors: oneDNN is quicker where the rows that it writes are
# made of whole ones.
VECTOR = 16

Weights = Sequence[dict[str, dict[str, jax.Array]]]


class Moments(NamedTuple):
    """Mean and variance of each channel over the batch, `[C]`."""

    mean: jax.Array
    var: jax.Array

    def first(self, channels: int) -> "Moments":
        """Those of the first channels."""
        return Moments(self.mean[:channels], self.var[:channels])


class Saved(NamedTuple):
    """What the backward pass needs besides the features and the weights.

    Attributes:
        features: Moments of all channels of the block.
        bottlenecks: The output of each layer's bottleneck, `[L, B, H, W, F]`; None without.
        inner: Moments of the bottlenecks, `[L, F]` each; None without.
    """

    features: Moments
    bottlenecks: jax.Array | None
    inner: Moments | None


class Norm(NamedTuple):
    """Batch normalisation as `a x + b`, `[C]` each; `r` is 1 / sqrt(var + epsilon)."""

    a: jax.Array
    b: jax.Array
    r: jax.Array
    mean: jax.Array

    @classmethod
    def create(cls, params: dict[str, jax.Array], moments: Moments, epsilon: float) -> "Norm":
        """From `scale` and `bias` and the moments of the batch."""
        r = lax.rsqrt(moments.var + epsilon)
        # a x + b with b = bias - mean a takes one product and one sum for each number.
        a = params["scale"].astype(r.dtype) * r
        return cls(a, params["bias"].astype(r.dtype) - moments.mean * a, r, moments.mean)

    def relu(self, x: jax.Array) -> jax.Array:
        """Norm and ReLU, written to memory once."""
        return lax.optimization_barrier(jax.nn.relu(self.apply(x)))

    def apply(self, x: jax.Array) -> jax.Array:
        """The norm alone."""
        return x * along(x, self.a) + along(x, self.b)


class DeferredGrad(NamedTuple):
    """The part `constant + factor (x - mean)` of a gradient that has not been added yet, `[C]`."""

    constant: jax.Array
    factor: jax.Array

    def add(self, other: "DeferredGrad") -> "DeferredGrad":
        """With what one more layer leaves for the first channels."""
        n = other.constant.shape[0]
        return DeferredGrad(
            self.constant.at[:n].add(other.constant), self.factor.at[:n].add(other.factor)
        )


def wide(dtype: Any) -> Any:
    """The dtype of the arithmetic: float32 or better."""
    return jnp.promote_types(dtype, jnp.float32)


class View(NamedTuple):
    """Where in an array of pixels, `[S, N, H, W, C]`, a stage reads or writes.

    Attributes:
        array: The pixels.
        image: First image of each device.
        channel: First channel.
    """

    array: jax.Array
    image: Any = 0
    channel: Any = 0

    def take(self, start: Any, images: int, channels: int) -> jax.Array:
        """Some images of each device, `[S, images * H * W, channels]`, in a wide dtype."""
        # The axis S is taken whole: every device reads and writes its own images at the same place.
        *shards, _, height, width, _ = self.array.shape
        sizes = (*shards, images, height, width, channels)
        part = lax.dynamic_slice(self.array, self._begin(start), sizes)
        return part.reshape(*shards, -1, channels).astype(wide(self.array.dtype))

    def put(self, pixels: jax.Array, start: Any) -> jax.Array:
        """The array with `[S, images * H * W, channels]` written to it."""
        *shards, _, height, width, _ = self.array.shape
        part = pixels.reshape(*shards, -1, height, width, pixels.shape[-1])
        part = part.astype(self.array.dtype)
        return lax.dynamic_update_slice(self.array, part, self._begin(start))

    def of(self, array: jax.Array) -> "View":
        """The same place in another array."""
        return self._replace(array=array)

    def _begin(self, start: Any) -> tuple[Any, ...]:
        zeros = (0,) * (self.array.ndim - 4)
        return (*zeros, self.image + start, 0, 0, self.channel)


def scan_batch(body: Callable[[Any, Any, int], Any], carry: Any, images: int, size: int) -> Any:
    """`carry = body(carry, start, n)` over all images, `size` at a time; the rest come last."""
    # The body is compiled once for the loop and once for the rest; one turn alone needs no loop.
    # The order of the images is the same every time, and with it the rounding of sums.
    count, rest = divmod(images, size)
    if count > 1:
        starts = size * jnp.arange(count)
        carry, _ = lax.scan(lambda c, start: (body(c, start, size), None), carry, starts)
    elif count:
        carry = body(carry, 0, size)
    return body(carry, count * size, rest) if rest else carry


def images_in_chunk(array: jax.Array, images: int, channels: int) -> int:
    """Images of each device whose intermediate arrays of so many channels fit into the cache."""
    _, height, width, _ = array.shape[-4:]
    return chunk_size(images, height * width * channels * wide(array.dtype).itemsize)


def product(pixels: jax.Array, matrix: jax.Array, by_onednn: bool = False) -> jax.Array:
    """`[S, P, C]` times `[C, F]`; by oneDNN `[P, C]`, float32."""
    if by_onednn:
        return onednn_calls.matmul(pixels, matrix)
    return lax.dot_general(pixels, matrix, (((pixels.ndim - 1,), (0,)), ((), ())))


def outer(x: jax.Array, y: jax.Array, by_onednn: bool = False) -> jax.Array:
    """The sum over pixels of x y^T, each device alone: `[S, C, F]`; by oneDNN `[C, F]`, float32."""
    if by_onednn:
        return onednn_calls.matmul_tn(x, y)
    # S is a batch axis of the product: a device keeps its own sums until `over_shards`.
    shards = tuple(range(x.ndim - 2))
    return lax.dot_general(x, y, (((x.ndim - 2,), (x.ndim - 2,)), (shards, shards)))


def flat_kernel(kernel: jax.Array, dtype: Any) -> jax.Array:
    """`[3, 3, C, k]` as `[C, 9 k]`."""
    # Columns by position, row by row, k for each, as `shifted_sum` and `patches` have them.
    return kernel.astype(dtype).transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def square_kernel(flat: jax.Array, like: jax.Array) -> jax.Array:
    """The inverse of `flat_kernel`, in the dtype of `like`."""
    k = like.shape[3]
    return flat.reshape(-1, 3, 3, k).transpose(1, 2, 0, 3).astype(like.dtype)


def shifted_sum(products: jax.Array, size: tuple[int, int], k: int) -> jax.Array:
    """Adds up what each kernel position gives, columns 0 to 9 k of `[S, P, *]`: `[S, P, k]`."""
    *lead, columns = products.shape
    grid = products.reshape(-1, *size, columns)
    # y[q] = sum over positions p of h[q + p] W_p: every pixel has been multiplied by all W_p, and
    # what W_p gives is now moved by -p.
    total = None
    for position in range(9):
        down, right = position // 3 - 1, position % 3 - 1
        # Negative padding crops what leaves the image, and zeros come in on the other side.
        config = ((0, 0, 0), (-down, down, 0), (-right, right, 0), (0, 0, 0))
        part = lax.pad(
            grid[..., position * k : (position + 1) * k], jnp.zeros((), grid.dtype), config
        )
        total = part if total is None else total + part
    # Three read it, to store it and for two sums; each might add up the nine parts for itself.
    return lax.optimization_barrier(total).reshape(*lead, k)


def patches(pixels: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The transpose of `shifted_sum`: `[S, P, k]` to `[S, P, 9 k]`."""
    *lead, k = pixels.shape
    height, width = size
    # The transpose moves by +p: position i - 1 reads at 1 - i, in the padded grid 2 - i.
    grid = jnp.pad(pixels.reshape(-1, height, width, k), ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Columns, then rows: six copies, not nine.
    grid = lax.optimization_barrier(grid)
    grid = side_by_side([grid[:, :, 2 - i : 2 - i + width] for i in range(3)])
    grid = lax.optimization_barrier(grid)
    grid = side_by_side([grid[:, 2 - i : 2 - i + height] for i in range(3)])
    return lax.optimization_barrier(grid).reshape(*lead, 9 * k)
