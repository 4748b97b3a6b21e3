"""One contender of scripts/bench/steps.py: a process that builds a training step and times it.

It reads commands from its standard input, one JSON object a line, so that contenders can take
turns: `{"steps": n}` is answered with the seconds of each step. A step is complete: gather the
batch, crop, flip, normalize, forward, backward, SGD with Nesterov momentum.
"""

import contextlib
import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

IMAGES = 2048  # of random pixels, from which batches are drawn
OURS = ("jaxcnn", "without_onednn")  # contenders; the others have memory freed as they like
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def peak_bytes() -> int:
    """The largest resident memory of this process since `forget_peak`, in bytes."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


def forget_peak() -> None:
    """Gives back what compiling left behind, and begins to measure anew (proc(5), clear_refs)."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as clear:
        clear.write("5")


def data() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 32, 32, 3]` and labels int32 `[N]`, the same for every contender."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, IMAGES, dtype=np.int32)


def batch_indices(step: int, batch_size: int) -> np.ndarray:
    """Rows of a step's batch, int32 `[B]`."""
    return np.random.default_rng(step).integers(0, IMAGES, batch_size, dtype=np.int32)


def build_jax(spec: dict[str, Any]) -> tuple[Callable[[int], None], dict[str, Any]]:
    """The step of jaxcnn, or of the same networks with the stock operations of lax and flax."""
    import jax

    from jaxcnn import models, ops
    from jaxcnn.data import augment
    from jaxcnn.runtime import compilation, memory
    from jaxcnn.train import optim
    from jaxcnn.train import step as steps

    is_stock = spec["contender"] == "flax"
    options = {} if is_stock else compilation.compiler_options()
    before = peak_bytes()
    model = models.create(spec["network"], dtype=spec["dtype"], ops="stock" if is_stock else "fast")
    optimizer = optim.constant_sgd(0.01, weight_decay=5e-4)
    begin = time.perf_counter()
    state = jax.jit(
        lambda key: steps.create_train_state(
            key, model=model, optimizer=optimizer, image_shape=(32, 32, 3)
        ),
        compiler_options=compilation.init_compiler_options(),
    )(jax.random.key(0))
    jax.block_until_ready(state)
    init = time.perf_counter()
    images, labels = map(jax.device_put, data())
    key = jax.random.key(1)

    def train_step(state: Any, images: Any, labels: Any, indices: Any) -> Any:
        return steps.train_step(
            state,
            key,
            images[indices],
            labels[indices],
            objective=steps.Objective(model, augment.PixelStats(MEAN, STD)),
            optimizer=optimizer,
            augment=augment.create_augment(crop_padding=4, flip=True),
        )

    without = spec["contender"] == "without_onednn"
    with ops.without_onednn() if without else contextlib.nullcontext():
        lowered = jax.jit(train_step, donate_argnums=0).lower(
            state, images, labels, batch_indices(0, spec["batch_size"])
        )
    compiled = lowered.compile(options)
    done = time.perf_counter()
    box = [state]

    def step(index: int) -> None:
        rows = batch_indices(index, spec["batch_size"])
        box[0] = jax.block_until_ready(compiled(box[0], images, labels, rows))

    step(0)
    first = time.perf_counter() - begin
    del lowered
    if spec["contender"] in OURS:
        memory.release_compile_memory()  # As jaxcnn's own program does.
    forget_peak()
    device = jax.devices()[0]
    facts = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "compile_seconds": done - init,
        "first_step_seconds": first,
        "device": f"{device.platform} {device.device_kind}",
        "versions": {"jax": jax.__version__},
        "memory_before": before,
    }

    def finish() -> dict[str, Any]:
        stats = device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return {"peak_bytes": stats["peak_bytes_in_use"]}
        return {"peak_bytes": peak_bytes() - before}

    facts["finish"] = finish
    return step, facts


def build_torch(spec: dict[str, Any]) -> tuple[Callable[[int], None], dict[str, Any]]:
    """The step of PyTorch: channels_last, eager or compiled, autocast for bfloat16."""
    import torch
    import torch_networks
    from torch.nn import functional

    from jaxcnn import models

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(spec["threads"])
    before = peak_bytes()
    torch.manual_seed(0)
    begin = time.perf_counter()
    network = torch_networks.create(models.create(spec["network"])).to(device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    raw_images, raw_labels = data()
    images = torch.from_numpy(raw_images).to(device)
    labels = torch.from_numpy(raw_labels).long().to(device)
    mean, std = torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)
    size = spec["batch_size"]
    span = torch.arange(32, device=device)
    run: Any = torch.compile(network) if spec["contender"] == "torch_compile" else network

    def step(index: int) -> None:
        rows = torch.from_numpy(batch_indices(index, size)).long().to(device)
        padded = functional.pad(images[rows], (0, 0, 4, 4, 4, 4))
        corner = torch.randint(0, 9, (2, size, 1), device=device)
        columns = corner[1] + span
        columns = torch.where(torch.rand(size, 1, device=device) < 0.5, columns.flip(1), columns)
        cropped = padded[
            torch.arange(size, device=device)[:, None, None],
            (corner[0] + span)[:, :, None],
            columns[:, None, :],
        ]
        inputs = ((cropped.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=spec["dtype"] == "bfloat16"):
            loss = functional.cross_entropy(run(inputs), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    network.train()
    step(0)
    first = time.perf_counter() - begin
    forget_peak()
    facts: dict[str, Any] = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "compile_seconds": None,
        "first_step_seconds": first,
        "device": str(device),
        "versions": {"torch": torch.__version__},
        "memory_before": before,
    }

    def finish() -> dict[str, Any]:
        if device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        return {"peak_bytes": peak_bytes() - before}

    facts["finish"] = finish
    return step, facts


def main() -> None:
    """Builds the contender that the first line asks for, then answers until the input ends."""
    spec = json.loads(sys.stdin.readline())
    if spec["contender"] in OURS or spec["keep_memory"]:
        from jaxcnn.runtime import memory

        memory.configure_malloc()  # As jaxcnn's own program does.
    build = build_torch if spec["contender"].startswith("torch") else build_jax
    step, facts = build(spec)
    finish = facts.pop("finish")
    print(json.dumps(facts), flush=True)
    index = 1
    for line in sys.stdin:
        seconds = []
        for _ in range(json.loads(line)["steps"]):
            begin = time.perf_counter()
            step(index)
            seconds.append(time.perf_counter() - begin)
            index += 1
        print(json.dumps({"seconds": seconds, **finish()}), flush=True)


if __name__ == "__main__":
    main()
