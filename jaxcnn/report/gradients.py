"""What the claims need of gradients: the norm of each convolution's, untrained and trained."""

import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxcnn import models
from jaxcnn.data import Dataset, augment, batches
from jaxcnn.evaluate.run import Run
from jaxcnn.models import summary
from jaxcnn.models.densenet import DenseNet
from jaxcnn.runtime.compilation import compiler_options, init_compiler_options
from jaxcnn.runtime.kept import Keeper
from jaxcnn.train import metrics

STAGES = {"init": "at initialisation", "trained": "after training"}
DEPTHS = (20, 56)
"""Layers of the untrained networks whose gradients are compared."""

_BATCH = 64
_SEEDS = 3

# uint8 [B, H, W, C] and int32 [B]
Batch = tuple[np.ndarray, np.ndarray]


def of_networks(
    runs: Mapping[str, Run],
    data_dir: str,
    say: Callable[[str], None],
    keeper: Keeper,
    advance: Callable[[], None],
    depths: Sequence[int] = DEPTHS,
) -> list[dict[str, Any]]:
    """Returns the gradient norm of every convolution, in order from the image.

    At initialisation: plain, residual and dense networks of `depths` layers, median of three seeds.
    After training: the plain, residual and dense runs. The loss is that of a training
    batch, without augmentation, norms in training mode.

    Args:
        runs: The runs by name.
        data_dir: A TFDS directory; empty for each run's own.
        say: Gets a warning of a damaged checkpoint.
        keeper: Takes the norms of a network, or has them.
        advance: Called after each network.
        depths: Layers of the networks at initialisation.
    """
    first = next(iter(runs.values()))
    dataset = first.dataset(data_dir=data_dir)
    drawn = [_batch(dataset, seed) for seed in range(_SEEDS)]
    found = []
    for name, family, depth, model in _untrained(len(first.class_names), depths):
        network = _Network(model, first.image_shape, first.settings.pixel_stats)
        median = keeper.take(
            "gradients at initialisation",
            {**network.described(), "batches": [_bytes_digest(batch) for batch in drawn]},
            partial(network.initial_norms, drawn),
        )
        found.append(_line(name, family, depth, "init", median))
        advance()
    for name, run in trained(runs).items():
        network = _Network(run.model, run.image_shape, run.settings.pixel_stats)
        variables = run.newest(say)[1]
        batch = _batch(run.dataset(data_dir=data_dir), run.settings.seed)
        norms = keeper.take(
            "gradients after training",
            {**network.described(), "state": _bytes_digest((variables, batch))},
            partial(network.trained_norms, variables, batch),
        )
        family = "plain" if run.settings.model.plain else models.FAMILY[run.model_name]
        depth = sum(row.layers for row in summary.block_summaries(run.model, run.image_shape))
        found.append(_line(name, family, depth, "trained", norms))
        advance()
    return found


def trained(runs: Mapping[str, Run]) -> dict[str, Run]:
    """Returns the runs whose gradients are measured after training."""
    families = ("resnet", "densenet")
    return {name: run for name, run in runs.items() if models.FAMILY[run.model_name] in families}


def steps(runs: Mapping[str, Run], depths: Sequence[int] = DEPTHS) -> int:
    """Returns how often `of_networks` calls `advance`."""
    return len(list(_untrained(2, depths))) + len(trained(runs))


def _untrained(classes: int, depths: Sequence[int]) -> Iterator[tuple[str, str, int, nn.Module]]:
    """Yields (name, family, depth, network) of the networks of equal depth."""
    for depth in depths:
        yield f"plain{depth}", "plain", depth, models.create(f"plain{depth}", classes)
        yield f"resnet{depth}", "resnet", depth, models.create(f"resnet{depth}", classes)
        # Stem, two transitions and classifier are 4 layers; the others stand in three blocks.
        # The later blocks get a layer more, so that the depth is met exactly.
        share, rest = divmod(depth - 4, 3)
        blocks = tuple(share + (block >= 3 - rest) for block in range(3))
        dense = DenseNet(blocks, stem=16, bn_size=0, compression=1.0, num_classes=classes)
        yield f"dense{depth}", "dense", depth, dense


class _Network(NamedTuple):
    """A network with what its gradients depend on besides parameters and a batch."""

    model: nn.Module
    image_shape: tuple[int, int, int]
    pixel_stats: augment.PixelStats

    def described(self) -> dict[str, Any]:
        """Returns the network as JSON has it: its repr lists every field."""
        moments = [list(map(float, values)) for values in self.pixel_stats]
        return {
            "model": repr(self.model),
            "image_shape": list(self.image_shape),
            "pixel_stats": moments,
        }

    def program(self) -> Any:
        """Returns the compiled function from (variables, images, labels) to norms by layer."""

        def norms(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
            def loss(params: Any) -> jax.Array:
                logits, _ = self.model.apply(
                    {**variables, "params": params},
                    augment.normalize(images, self.pixel_stats),
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": jax.random.key(0)},
                )
                return jnp.mean(metrics.cross_entropy(logits, labels))

            grads = jax.grad(loss)(variables["params"])
            return jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, grads))

        # Each runs a few times: compiling is most of the cost.
        return jax.jit(norms, compiler_options={**compiler_options(), **init_compiler_options()})

    def norms(self, program: Any, variables: Any, batch: Batch) -> list[float]:
        """Returns the gradient norms of the convolutions in order, without shortcuts'."""
        by_layer = {
            "/".join(key.key for key in path[:-1]): float(norm)
            for path, norm in jax.tree_util.tree_leaves_with_path(program(variables, *batch))
            # Without scales and biases, whose gradients are sums over many more pixels.
            if path[-1].key == "kernel"
        }
        return [
            by_layer[layer.name]
            for layer in summary.layers(self.model, self.image_shape)
            if layer.kind not in ("norm", "dense") and "shortcut" not in layer.name
        ]

    def trained_norms(self, variables: Any, batch: Batch) -> list[float]:
        """Returns the norms of a trained network."""
        return self.norms(self.program(), variables, batch)

    def initial_norms(self, drawn: Sequence[Batch]) -> list[float]:
        """Returns the medians over the seeds 0, 1, ..., each with a batch of its own."""
        program = self.program()
        init = jax.jit(
            lambda key: self.model.init(key, jnp.zeros((1, *self.image_shape)), train=False),
            compiler_options=init_compiler_options(),
        )
        norms = [
            self.norms(program, init(jax.random.key(seed)), batch)
            for seed, batch in enumerate(drawn)
        ]
        return [statistics.median(of_layer) for of_layer in zip(*norms, strict=True)]


def _batch(dataset: Dataset, seed: int) -> Batch:
    """Returns the first training batch of a run with this seed, of at most `_BATCH` images."""
    size = min(_BATCH, len(dataset.train.labels))
    chosen = batches.shuffled_batches(seed, 0, len(dataset.train.labels), size)[0]
    return dataset.train.images[chosen], dataset.train.labels[chosen]


def _bytes_digest(tree: Any) -> str:
    """Returns the SHA-256 of the names, dtypes, shapes and bytes of all arrays of a tree."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n"
        digest.update(head.encode() + array.tobytes())
    return digest.hexdigest()


def _line(name: str, family: str, depth: int, when: str, values: list[float]) -> dict[str, Any]:
    """Returns what the report has of a network: the norms, and first ones over last ones."""
    third = max(1, len(values) // 3)
    # Geometric, since norms range over powers of ten; a norm of zero would make it zero.
    mean = lambda part: float(np.exp(np.mean(np.log(np.maximum(part, 1e-30)))))  # noqa: E731
    return {
        "name": name,
        "family": {"densenet": "dense"}.get(family, family),
        "depth": depth,
        "when": when,
        "norms": values,
        "ratio": mean(values[:third]) / mean(values[-third:]),
    }
