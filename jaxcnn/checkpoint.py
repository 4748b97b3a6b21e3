"""Checkpoints: the training state as named arrays, which Orbax writes in the background."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import serialization


class Checkpoints:
    """The checkpoints in one folder, one per step.

    A checkpoint is a nested dict of named arrays (`flax.serialization.to_state_dict`), no pickled
    class. Orbax writes it to a temporary folder and renames that when all is on disk, so a folder
    with a step's name is always whole.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Opens `folder`, which is made if need be, and keeps the newest `keep` checkpoints."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state`; waits for an earlier write that is still under way."""
        # The step donates its buffers to the next one, so the writer gets a copy of its own.
        arrays = jax.tree.map(jnp.copy, serialization.to_state_dict(state))
        self._manager.save(step, args=ocp.args.StandardSave(arrays))

    def restore(self, step: int, template: Any) -> Any:
        """Returns the state saved at `step`, with the structure and shardings of `template`."""
        arrays = jax.tree.map(
            ocp.utils.to_shape_dtype_struct, serialization.to_state_dict(template)
        )
        restored = self._manager.restore(step, args=ocp.args.StandardRestore(arrays))
        return serialization.from_state_dict(template, restored)

    def wait(self) -> None:
        """Returns when everything is on disk; raises what a write raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the folder."""
        self._manager.close()
