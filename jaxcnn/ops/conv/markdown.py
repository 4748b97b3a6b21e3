"""The table of `select.py` in Markdown, for docs/algorithms.md.

    python -m jaxcnn.ops.conv.markdown rows
    python -m jaxcnn.ops.conv.markdown layers

The first prints its rows, the second what it selects for layers of the networks.
"""

import sys
from collections.abc import Iterable

from jaxcnn.ops.conv.select import TABLE, WITHOUT_ONEDNN, Row, select
from jaxcnn.ops.spec import ConvSpec

_OPERATIONS = {
    "forward": "Forward",
    "input_grad": "Gradient of the images",
    "input_grad_phase": "Each phase of a strided convolution's gradient of the images",
    "kernel_grad": "Gradient of the kernel",
}
_BACKENDS = {"onednn": "with oneDNN", "xla": "without oneDNN"}

# Layers of the networks: name, image size, kernel, stride, channels, features, depthwise.
_LAYERS = [
    ("LeNet, first", 32, 5, 1, 3, 6, False),
    ("LeNet, second", 14, 5, 1, 6, 16, False),
    ("ResNet-18, first", 32, 3, 1, 3, 64, False),
    ("ResNet-18, stage 1", 32, 3, 1, 64, 64, False),
    ("ResNet-18, into stage 2", 32, 3, 2, 64, 128, False),
    ("ResNet-18, its shortcut", 32, 1, 2, 64, 128, False),
    ("ResNet-20, stage 1", 32, 3, 1, 16, 16, False),
    ("ResNet-20, stage 2", 16, 3, 1, 32, 32, False),
    ("MobileNet, depthwise", 16, 3, 1, 64, 64, True),
    ("MobileNet, pointwise", 16, 1, 1, 64, 128, False),
]
_BATCH = 128


def rows_table() -> str:
    """The rows of `select.TABLE`, one table for each operation and library."""
    parts = []
    for operation, title in _OPERATIONS.items():
        for backend, suffix in _BACKENDS.items():
            rows = TABLE[backend][operation]  # type: ignore[index]
            if operation == "input_grad_phase" and backend == "xla":
                continue  # The rows of `forward`, as the page says.
            parts.append(f"**{title}, {suffix}**\n\n" + _markdown(_row_cells(rows)))
    return "\n\n".join(parts)


def _row_cells(rows: tuple[Row, ...]) -> Iterable[tuple[str, ...]]:
    yield "shape", "algorithm", "why"
    for row in rows:
        why = f"{row.why} ([measured](algorithm-measurements.md#{row.measured}))"
        named = row.algorithm if row.algorithm == WITHOUT_ONEDNN else f"`{row.algorithm}`"
        yield row.when.text, named, why if row.measured else row.why


def layers_table() -> str:
    """What the table selects for layers of the networks, with oneDNN and without."""
    return _markdown(_layer_cells())


def _layer_cells() -> Iterable[tuple[str, ...]]:
    yield "layer", "H, W; kernel; stride; C, F", "forward", "images", "kernel"
    for name, size, kernel, stride, channels, features, depthwise in _LAYERS:
        pad = 0 if kernel == 5 else kernel // 2  # LeNet does not pad.
        pads = ((pad, pad), (pad, pad))
        spec = ConvSpec((size, size), (kernel, kernel), (stride, stride), pads, depthwise)
        shape = f"{size}, {size}; {kernel}x{kernel}; {stride}; {channels}, {features}"
        plans = [select(spec, _BATCH, channels, features, b) for b in ("onednn", "xla")]
        yield name, shape, *("`" + "`, `".join(names) + "`" for names in zip(*plans, strict=True))


def _markdown(cells: Iterable[tuple[str, ...]]) -> str:
    head, *rows = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, "|" + "---|" * (head.count(" | ") + 1), *rows])


if __name__ == "__main__":
    print({"rows": rows_table, "layers": layers_table}[sys.argv[1]]())
