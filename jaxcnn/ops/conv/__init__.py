"""Convolution: the drop-in for `jax.lax.conv_general_dilated` and what computes it."""
