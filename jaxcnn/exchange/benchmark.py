"""How fast the formats that are programs compute on this machine: latency and throughput."""

import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.exchange import exporting, onnx_file, stablehlo
from jaxcnn.exchange.subject import Subject, classifier
from jaxcnn.runtime import environment

LATENCY_BATCH, THROUGHPUT_BATCH = 1, 128
SECONDS, LEAST_CALLS = 2.0, 10
"""A batch is computed for so long, and so often at least; the median call counts."""


def measure(
    subject: Subject,
    int8: Callable[[Path, Path], Any] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Times this program, StableHLO and ONNX on the same random images.

    Args:
        subject: The network.
        int8: Writes the 8-bit model of an ONNX file to another file, to be timed as well.
        say: Gets the name of what is timed.
    """
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (THROUGHPUT_BATCH, *subject.network.image_shape), np.uint8)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stable, onnx, small = (Path(folder) / name for name in ("a.stablehlo", "a.onnx", "b.onnx"))
        stablehlo.write(subject, stable)
        onnx_file.write(subject, onnx)
        files = {"stablehlo": stable, "onnx": onnx}
        if int8:
            int8(onnx, small)
            files["onnx int8"] = small
        for name in ("jaxcnn", *files):
            say(f"timing {name}")
            times = {
                batch: _median_seconds(_predictor(subject, files.get(name), batch), images[:batch])
                for batch in (LATENCY_BATCH, THROUGHPUT_BATCH)
            }
            rows.append(
                {
                    "format": name,
                    "latency_ms": 1000 * times[LATENCY_BATCH],
                    "images_per_second": THROUGHPUT_BATCH / times[THROUGHPUT_BATCH],
                    "bytes": files[name].stat().st_size if name in files else None,
                }
            )
    return {
        "network": subject.network.name,
        "parameters": subject.network.parameters,
        "image_shape": list(subject.network.image_shape),
        "machine": environment.machine(),
        "versions": {name: metadata.version(name) for name in ("jax", "onnxruntime")},
        "latency_batch": LATENCY_BATCH,
        "throughput_batch": THROUGHPUT_BATCH,
        "formats": rows,
    }


def _predictor(subject: Subject, file: Path | None, batch: int) -> exporting.Predictor:
    """Returns what a file computes, or this program where there is none."""
    if file is None:
        return classifier(subject, subject.arrays, batch).logits
    return stablehlo.read(file) if file.suffix == ".stablehlo" else onnx_file.read(file)


def _median_seconds(predict: exporting.Predictor, images: np.ndarray) -> float:
    predict(images)  # compiles
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - begin < SECONDS:
        before = time.perf_counter()
        predict(images)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def as_text(report: dict[str, Any]) -> str:
    """Returns the report as a table."""
    lines = [
        f"{report['network']}, {report['parameters']:,} parameters, {report['machine']}",
        f"{'format':12}{'ms, batch ' + str(LATENCY_BATCH):>14}"
        f"{'images/s, batch ' + str(THROUGHPUT_BATCH):>24}{'bytes':>14}",
    ]
    for row in report["formats"]:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        lines.append(
            f"{row['format']:12}{row['latency_ms']:14.2f}{row['images_per_second']:24,.0f}{size:>14}"
        )
    return "\n".join(lines)
