"""Checkpoints: the training state as named arrays, written by a background thread.

With several processes, every process writes its own parts of the arrays and process 0 the rest.
They then write in the foreground: they wait for each other through collectives on the devices,
which must not run at the same time as those of a training step.
"""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from jaxcnn.errors import UserError, outside_reason
from jaxcnn.run import manifest
from jaxcnn.runtime import distributed

_TEMPORARY = ".tmp-"


class Checkpoints:
    """The checkpoints in one folder, one per step.

    A checkpoint is a nested dict of named arrays (`flax.serialization.to_state_dict`), not a
    pickled class. Orbax writes it into a temporary folder, which then gets a manifest and, when
    everything is on disk, is renamed to its step. So a folder with a step's name was complete when
    it got that name; if it no longer matches its manifest, it was damaged later. Orbax's own
    manager is not used because it renames before a manifest can be added.
    """

    def __init__(self, folder: Path, *, keep: int = 2, fingerprint: str | None = None) -> None:
        """Opens `folder`, which need not exist, without changing anything in it.

        Args:
            folder: The folder of the checkpoints.
            keep: Number of checkpoints that are kept, the newest ones.
            fingerprint: Of the configuration that the checkpoints must belong to, see
                `config.compat.fingerprint`; None accepts any.
        """
        self._folder, self._keep, self._fingerprint = folder.resolve(), keep, fingerprint
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())
        self._protected: int | None = None
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in ascending order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdecimal())

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def protect(self, step: int) -> None:
        """Keeps the checkpoint of `step`, instead of that of an earlier call, beside the newest."""
        self._protected = step

    def damaged(self) -> list[Path]:
        """Returns the folders of the damaged checkpoints that were moved away."""
        return sorted(self._folder.glob("damaged/*"))

    def restore(self, step: int, template: Any) -> Any:
        """Returns the state saved at `step`, with the structure and shardings of `template`.

        The devices and processes need not be those that wrote it.

        Raises:
            CorruptCheckpointError: If the checkpoint does not match its manifest.
            UserError: If it has another format or belongs to another configuration.
        """
        self.verify(step)
        return self.restore_verified(step, template)

    def verify(self, step: int) -> None:
        """Raises CorruptCheckpointError or UserError as `restore` does."""
        manifest.verify(self._folder / str(step), self._fingerprint)

    def restore_verified(self, step: int, template: Any) -> Any:
        """Returns what `restore` does, without checking all files again."""
        folder = self._folder / str(step)
        arrays = jax.tree.map(
            ocp.utils.to_shape_dtype_struct, serialization.to_state_dict(template)
        )
        restored = self._orbax.restore(folder / "default", args=ocp.args.StandardRestore(arrays))
        return serialization.from_state_dict(template, restored)

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """Returns the arrays saved at `step` by their paths, such as "params/conv/kernel".

        Raises:
            CorruptCheckpointError, UserError: As `restore`.
        """
        folder = self._folder / str(step)
        manifest.verify(folder, self._fingerprint)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        tree = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            self._orbax.metadata(folder / "default").item_metadata.tree,
        )
        restored = self._orbax.restore(folder / "default", args=ocp.args.StandardRestore(tree))
        return {
            "/".join(str(key.key) for key in path): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(restored)
        }

    def latest_valid_step(self, warn: Callable[[str], None]) -> int | None:
        """Returns the step of the newest valid checkpoint, or None if there is none.

        A damaged one is moved to the folder "damaged", and `warn` gets a line about it.
        """
        for step in reversed(self.steps()):
            try:
                self.verify(step)
                return step
            except manifest.CorruptCheckpointError as error:
                aside = self._quarantine(step)
                warn(
                    f"warning: the checkpoint of step {step} is damaged ({error}): kept as {aside}"
                )
        return None

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state`, unless `step` has a checkpoint; waits for an earlier write.

        Raises:
            UserError: If the earlier write failed.
        """
        self.wait()
        if distributed.broadcast_from_process_0(lambda: step in self.steps()):
            return
        # The step donates its buffers to the next one, so the writer gets a copy of its own.
        arrays = jax.tree.map(jnp.copy, serialization.to_state_dict(state))
        if distributed.is_multiprocess():
            self._write(step, arrays)
            self.wait()
            return
        self._writer = threading.Thread(target=self._write, args=(step, arrays), name="checkpoint")
        self._writer.start()

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
            UserError: If a write failed for a reason outside the program, such as a full disk.
        """
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._error is not None:
            error, self._error = self._error, None
            reason = outside_reason(error)
            if reason is None:
                raise error
            newest = self.latest_step()
            last = (
                "there is none yet" if newest is None else f"the last whole one is of step {newest}"
            )
            raise UserError(
                f"cannot write a checkpoint to {self._folder} ({reason}); {last}: mend this, then "
                "the same command continues"
            ) from error

    def _write(self, step: int, arrays: Any) -> None:
        """Writes one checkpoint and deletes the oldest; runs in the writer thread."""
        temporary = self._folder / f"{_TEMPORARY}{step}"
        try:
            distributed.broadcast_from_process_0(lambda: self._begin(temporary))
            self._orbax.save(temporary / "default", args=ocp.args.StandardSave(arrays))
            distributed.broadcast_from_process_0(lambda: self._finish(temporary, step))
        except BaseException as error:
            # Raised by the next `wait`, in the main thread.
            self._error = error
            if distributed.is_process_0():
                shutil.rmtree(temporary, ignore_errors=True)

    def _begin(self, temporary: Path) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # From a run that was killed while it wrote.
        for left in self._folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left)
        temporary.mkdir()

    def _finish(self, temporary: Path, step: int) -> None:
        # In this order: a kill between two lines leaves the old ones, and no half of the new one.
        manifest.write(temporary, self._fingerprint or "")
        os.rename(temporary, self._folder / str(step))
        manifest.sync_folder(self._folder)
        for old in {*self.steps()[: -self._keep]} - {self._protected}:
            # Renamed first: a kill in the middle leaves nothing that looks like a checkpoint.
            gone = self._folder / f"{_TEMPORARY}old-{old}"
            os.rename(self._folder / str(old), gone)
            shutil.rmtree(gone)

    def _quarantine(self, step: int) -> Path:
        folder = self._folder / "damaged"
        folder.mkdir(exist_ok=True)
        count = sum(path.name.split("-")[0] == str(step) for path in folder.iterdir())
        aside = folder / (f"{step}-{count + 1}" if count else str(step))
        os.rename(self._folder / str(step), aside)
        return aside
