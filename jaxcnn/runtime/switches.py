"""JAX's own switches in the environment: each works, is put back with a warning, or is refused."""

import logging
import os

import jax

from jaxcnn.errors import UserError

_logger = logging.getLogger(__name__)

_WITHOUT_EFFECT = {
    "jax_enable_x64": "networks compute in float32 or bfloat16, see model.dtype",
    "jax_disable_jit": "what is trained and evaluated here are compiled programs",
}


def put_back() -> None:
    """Puts back the switches that the program cannot follow, and warns; call it before JAX is used.

    The others, such as JAX_DEBUG_NANS, do what JAX says of them.
    """
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(jax.config, name):
            jax.config.update(name, False)
            _logger.warning("%s has no effect: %s", name.upper(), reason)


def check_devices() -> None:
    """Starts JAX's backend.

    Raises:
        UserError: If there is no device of the platforms that JAX_PLATFORMS names.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a known one without a device
        if isinstance(error, jax.errors.JaxRuntimeError):  # such as another process that has ended
            raise
        named = os.environ.get("JAX_PLATFORMS", "")
        reason = " ".join(str(error).split()) or "there is no such device"
        raise UserError(
            f"JAX_PLATFORMS={named} cannot be used ({reason}): set it to cpu, or unset it to have "
            "a device chosen"
        ) from error
