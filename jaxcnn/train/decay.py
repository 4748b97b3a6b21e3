"""Weight decay: which parameters are pulled towards 0, and how strongly."""

from typing import Any

import jax
import optax

from jaxcnn.config.schema import OptimConfig
from jaxcnn.models.groups import parameter_group


def weight_decay(config: OptimConfig) -> optax.GradientTransformation:
    """Returns what adds each parameter, times the rate of its group, to its direction.

    Decaying the scales and biases of norms costs accuracy (He et al. 2019, arXiv:1812.01187,
    sec. 3.1), so their rate is 0 by default, and a rate of 0 leaves them alone.
    """
    groups_by_rate: dict[float, set[str]] = {config.weight_decay: {"kernel"}}
    for group, rate in (
        ("depthwise", config.weight_decay_depthwise),
        ("head", config.weight_decay_head),
        ("norm", config.weight_decay_norm),
        ("whitening", config.weight_decay_norm),
    ):
        rate = config.weight_decay if rate is None else rate
        if rate or group not in ("norm", "whitening"):
            groups_by_rate.setdefault(rate, set()).add(group)
    parts = [_decay(rate, groups) for rate, groups in groups_by_rate.items()]
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _decay(rate: float, groups: set[str]) -> optax.GradientTransformation:
    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: parameter_group(path) in groups, params
        )

    return optax.add_decayed_weights(rate, mask=mask)
