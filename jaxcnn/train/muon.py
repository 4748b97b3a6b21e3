"""Muon: kernels of convolutions are moved by orthogonal matrices, all else by SGD."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxcnn.models.groups import parameter_group

# Of the iteration in Jordan et al. 2024 (kellerjordan.github.io/posts/muon): singular values reach
# a band about 1, not 1 itself, and fast.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 3
_LEAST_NORM = 1e-12  # keeps 0 from dividing 0


def muon(
    *, momentum: float, sgd_momentum: float, nesterov: bool
) -> optax.GradientTransformationExtraArgs:
    """Returns the direction of Muon for kernels of convolutions, and of SGD for all others.

    `optax.contrib.scale_by_muon` divides its momentum by a bias correction, which needs a count of
    steps of its own, and sums (1 - momentum) times the gradients; here both sums are those of SGD.

    Args:
        momentum: Of kernels of convolutions.
        sgd_momentum: Of all others.
        nesterov: Whether both are Nesterov's.
    """
    orthogonal = optax.stateless(lambda updates, _: jax.tree.map(orthogonalized, updates))
    return optax.partition(
        {
            "muon": optax.chain(optax.trace(momentum, nesterov=nesterov), orthogonal),
            "sgd": optax.trace(sgd_momentum, nesterov=nesterov),
        },
        lambda params: jax.tree_util.tree_map_with_path(
            lambda path, leaf: "muon" if is_orthogonalized(path, leaf) else "sgd", params
        ),
    )


def is_orthogonalized(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether Muon moves a parameter: the kernel of a convolution, but not of a depthwise one."""
    return leaf.ndim == 4 and parameter_group(path) == "kernel"


def orthogonalized(kernel: jax.Array) -> jax.Array:
    """Returns about the nearest semi-orthogonal matrix, by Newton and Schulz's iteration.

    Args:
        kernel: float `[h, w, C, F]`, of which each filter is one row of `[F, h * w * C]`.
    """
    x = kernel.reshape(-1, kernel.shape[-1])
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / jnp.maximum(jnp.linalg.norm(x), _LEAST_NORM)  # so no singular value is above 1
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).reshape(kernel.shape)


def with_unit_filters(kernel: jax.Array) -> jax.Array:
    """Returns a kernel `[h, w, C, F]` scaled to the norm sqrt(F): filters have norm 1 on average.

    The norm behind a convolution makes its scale immaterial to what the network computes; but the
    smaller the kernel, the more a step turns it.
    """
    return kernel * (kernel.shape[-1] ** 0.5 / jnp.maximum(jnp.linalg.norm(kernel), _LEAST_NORM))
