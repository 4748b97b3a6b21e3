"""The example of the page on `ops` runs, and gives what it gives with the stock operations."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

README = Path(__file__).parents[1] / "jaxcnn/ops/README.md"


def run(example: str) -> Any:
    """The parameters after the example's training step."""
    names: dict[str, Any] = {}
    exec(compile(example, str(README), "exec"), names)
    return names["params"]


@pytest.mark.slow
@pytest.mark.ci
def test_the_example_trains_as_with_the_stock_operations() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    stock = example.replace("ops.conv_general_dilated", "jax.lax.conv_general_dilated")
    stock = stock.replace("ops.max_pool", "nn.max_pool")
    assert stock.count("ops.") == 2  # The compiler options and the cache.
    results = run(example), run(stock)
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for ours, expected in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
