"""Which weights does a run begin with: random ones, or those that `train.init_from` names?

Only the beginning reads them: a run that is continued has its own, and its source may be gone. What
they were stands in environment.json, by a digest of their names and numbers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.evaluate import weights as weights_of
from jaxcnn.models import pretrained
from jaxcnn.models.groups import is_head
from jaxcnn.run.best import is_held_out
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.runtime import distributed
from jaxcnn.runtime.sharding import place
from jaxcnn.train.programs import Programs
from jaxcnn.train.step import TrainState


class Weights(NamedTuple):
    """The weights that a run begins with.

    Attributes:
        name: What `train.init_from` names, in words, such as "the run runs/lenet".
        arrays: float32, by the paths of the network's variables; without a head that is replaced.
        sha256: Of all arrays of the source.
        head: What becomes of the head, in words.
        data: Fingerprint of the data that they were trained on; None if it is not known.
    """

    name: str
    arrays: dict[str, np.ndarray]
    sha256: str
    head: str
    data: str | None

    def as_json(self) -> dict[str, Any]:
        """Returns what environment.json says of them."""
        return {
            "source": self.name,
            "sha256": self.sha256,
            "data": self.data,
            "arrays": len(self.arrays),
            "head": self.head,
        }


def of_run(settings: Settings, run: RunDir, say: Callable[[str], None]) -> Weights | None:
    """Returns the weights that a run is to begin with; None for random ones, or if it has begun.

    Args:
        settings: Of the run.
        run: Its folder; it has begun if there is a checkpoint.
        say: Gets a line about the weights.

    Raises:
        UserError: As `load`; if the folder's environment.json names other weights of that name.
    """
    if not settings.train.init_from or distributed.broadcast_from_process_0(
        lambda: bool(Checkpoints(run.checkpoints).steps())
    ):
        return None
    weights = load(settings, say)
    distributed.broadcast_from_process_0(lambda: _check_unchanged(run, weights))
    _check_same_everywhere(weights)
    return weights


def load(settings: Settings, say: Callable[[str], None] = lambda _: None) -> Weights:
    """Returns the weights that `train.init_from` names, which fit the network of `settings`.

    The head is left out where it has another number of classes.

    Raises:
        UserError: If there are none of that name, they are damaged, or are of another network or
            other images, naming the arrays.
    """
    name = settings.train.init_from
    try:
        source = weights_of.read(name)
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from error
    kept, head = _fitting(settings, source)
    title = f"{source.kind} {name}"
    say(f"begins with the weights of {title}, {len(kept)} arrays; the head is {head}")
    if _may_have_seen(settings, source):
        say(
            f"warning: the weights of {title} were trained on {source.train_split!r} of the same "
            f"data, and may know the images of {settings.dataset.eval_split!r}: accuracy there is "
            "no measure of what they will do on others"
        )
    return Weights(title, kept, _digest(source.arrays), head, source.fingerprint)


def _fitting(settings: Settings, source: weights_of.Weights) -> tuple[dict[str, np.ndarray], str]:
    """Returns (arrays that the network of `settings` takes, what becomes of the head in words)."""
    name, facts = settings.train.init_from, settings.facts
    infinite = [path for path, array in source.arrays.items() if not np.isfinite(array).all()]
    if infinite:
        raise UserError(
            f"train.init_from={name!r} holds numbers that are not finite, in {infinite[0]}: choose "
            "other weights"
        )
    theirs = source.image_shape
    if theirs and theirs[-1] != facts.image_shape[-1]:
        raise UserError(
            f"train.init_from={name!r} takes images of {theirs[-1]} channels, those of "
            f"{settings.dataset.name} have {facts.image_shape[-1]}: choose data with {theirs[-1]}"
        )
    needed = pretrained.shapes(settings.create_model(), facts.image_shape)
    replaced = {
        path: source.arrays[path].shape[-1]
        for path, shape in needed.items()
        if path in source.arrays and is_head(path)
        # Another number of classes, of the same features.
        if (found := source.arrays[path].shape)[:-1] == shape[:-1] and found[-1:] != shape[-1:]
    }
    kept = {path: array for path, array in source.arrays.items() if path not in replaced}
    wrong = pretrained.misfits({p: s for p, s in needed.items() if p not in replaced}, kept)
    if wrong:
        raise UserError(f"train.init_from={name!r} {_misfit(settings, source, wrong)}")
    if not replaced:
        return kept, "kept"
    classes = len(facts.class_names)
    return kept, f"new, {classes} classes in place of {max(replaced.values())}"


def state(programs: Programs, weights: Weights | None) -> TrainState:
    """Returns the state at step 0: that of the seed, with `weights` in place of random ones."""
    begin = programs.init()
    if weights is None:
        return begin
    own = jax.device_get({"params": begin.params, "batch_stats": begin.batch_stats})
    flat = traverse_util.flatten_dict(own, sep="/", keep_empty_nodes=True)
    variables = traverse_util.unflatten_dict({**flat, **weights.arrays}, sep="/")
    begin = dataclasses.replace(
        begin,
        **variables,
        # It may hold parameters, as Lookahead's does.
        opt_state=programs.optimizer.tx.init(variables["params"]),
        ema=variables if begin.ema else {},
    )
    # Copied, as the first step takes over the memory of its state, which must not alias.
    return jax.tree.map(
        lambda leaf, to: place(np.array(leaf), to.sharding), begin, programs.template
    )


def _misfit(settings: Settings, source: weights_of.Weights, wrong: str) -> str:
    """Returns why weights do not fit, in words that follow their name."""
    ours, theirs, network = settings.facts.image_shape, source.image_shape, settings.model.name
    if source.network == network and theirs and theirs != ours:
        return (
            f"takes images of {theirs[0]} x {theirs[1]} pixels, those of {settings.dataset.name} "
            f"have {ours[0]} x {ours[1]}, and {network} fits one size only ({wrong}): choose data "
            "of that size, or another network"
        )
    if source.network not in (None, network):
        return f"is of {source.network}, not of {network} ({wrong}): choose weights of {network}"
    return f"does not fit {network} ({wrong}): choose weights of {network} with the same options"


def _may_have_seen(settings: Settings, source: weights_of.Weights) -> bool:
    """Whether weights may have been trained on the images that this run holds out."""
    return (
        source.fingerprint == settings.facts.fingerprint
        and is_held_out(settings.dataset.eval_split)
        and source.train_split != settings.dataset.train_split
    )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of arrays, float32: their names, shapes and numbers."""
    digest = hashlib.sha256()
    for path, array in sorted(arrays.items()):
        digest.update(f"{path} {array.shape}\n".encode())
        digest.update(array.astype("<f4").tobytes())  # the same on any byte order
    return digest.hexdigest()


def _check_unchanged(run: RunDir, weights: Weights) -> None:
    """Raises UserError if an earlier start, which saved nothing yet, began with other weights."""
    for start in run.starts():
        before = start.get("init_from")
        if isinstance(before, dict) and before.get("sha256") != weights.sha256:
            raise UserError(
                f"train.init_from: {weights.name} has changed since {run.path} was begun (SHA-256 "
                f"{str(before.get('sha256'))[:16]}, now {weights.sha256[:16]}): put it back, or "
                "choose a new folder with --workdir"
            )


def _check_same_everywhere(weights: Weights) -> None:
    """Raises UserError in a process that has read other weights than process 0."""
    mine = int(weights.sha256[:7], 16)  # what a broadcast can carry
    if distributed.broadcast_from_process_0(lambda: mine) != mine:
        raise UserError(
            f"train.init_from: {weights.name} holds other weights here than in process 0: give "
            "every process the same"
        )
