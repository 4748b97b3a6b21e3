"""The training loop: restores, trains epoch by epoch, evaluates, saves, and stops when asked."""

import math
import time
from functools import partial
from typing import Any

import jax

from jaxcnn.config.compat import fingerprint
from jaxcnn.data import batches
from jaxcnn.errors import UserError
from jaxcnn.run.best import best_record, is_exhausted
from jaxcnn.run.checkpoint import Checkpoints
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import Observer
from jaxcnn.runtime import distributed, memory
from jaxcnn.runtime.signals import Interrupted, Interrupts
from jaxcnn.train import initial, metrics
from jaxcnn.train.programs import Programs
from jaxcnn.train.remedies import remedy
from jaxcnn.train.step import TrainState, stopped


class Training:
    """One process's share of a run: restores, trains epoch by epoch, saves.

    Attributes:
        state: The training state, on the devices. The device may be steps behind the host.
        step: Steps sent to the device so far: the host's own count, for which it need not wait.
    """

    def __init__(
        self,
        programs: Programs,
        run: RunDir,
        observer: Observer,
        interrupts: Interrupts,
        weights: initial.Weights | None = None,
    ) -> None:
        """Restores what was saved last.

        Args:
            programs: The compiled programs, with the settings of the run.
            run: The run folder, which is locked.
            observer: Gets the progress.
            interrupts: Signals that have arrived.
            weights: What a new run begins with, see `initial.of_run`; None for random numbers.
        """
        self.programs, self.settings = programs, programs.settings
        self.run, self.observer, self.interrupts = run, observer, interrupts
        needed = programs.memory_needed()
        self._memory_remedy = remedy(self.settings, programs.mesh.size, needed)
        self.checkpoints = Checkpoints(
            run.checkpoints,
            keep=self.settings.train.keep_checkpoints,
            fingerprint=fingerprint(self.settings.to_json()),
        )
        self.signal_sync = distributed.SignalSync(programs.mesh)
        self.step, self.state = self.restore(weights)
        memory.release_compile_memory()
        self.saved_at = time.monotonic()

    def restore(self, weights: initial.Weights | None) -> tuple[int, TrainState]:
        """Returns (step, state) of the newest valid checkpoint, or of the start, see `__init__`."""
        newest = distributed.broadcast_from_process_0(self.newest_step)
        if newest < 0:
            return 0, initial.state(self.programs, weights)
        state = self.checkpoints.restore_verified(newest, self.programs.template)
        self.observer.say(f"continuing after step {newest}")
        return newest, state

    def newest_step(self) -> int:
        """Returns the step of the newest valid checkpoint, or -1 if nothing was trained."""
        newest = self.checkpoints.latest_valid_step(self.observer.say)
        if newest is not None:
            return newest
        # A line of metrics is written only when a checkpoint of its step is on disk.
        if self.run.read_metrics() or self.checkpoints.damaged():
            raise UserError(
                f"{self.run.path} was trained, but no whole checkpoint is left in "
                f"{self.run.checkpoints}: put one back, or start anew with another --workdir"
            )
        return -1

    def run_to_end(self) -> list[dict[str, Any]]:
        """Trains the missing epochs and returns the records of all epochs, in process 0."""
        records: list[dict[str, Any]] = []
        epochs = self.settings.train.epochs

        def read() -> int:
            # Lines beyond the restored step are of epochs that are now trained again.
            records.extend(self.run.truncate_metrics(self.step))
            self._protect_best(records)
            self._check_complete(len(records))
            return len(records)

        done = distributed.broadcast_from_process_0(read)
        self.observer.start(
            epochs=epochs, steps_per_epoch=self.settings.steps_per_epoch, step=self.step
        )
        try:
            # A signal that came while compiling ends the run before its first step.
            self.checkpoint_or_stop(self.state.step)
            for epoch in range(done, epochs):
                if self._is_exhausted(records):
                    self.observer.say(f"ends after epoch {epoch}: train.patience is used up")
                    break
                with memory.exhaustion_explained(self._memory_remedy):
                    record = self.epoch(epoch)
                distributed.broadcast_from_process_0(partial(self.run.append_metrics, record))
                records.append(record)
                self._protect_best(records)
                self.observer.epoch(record, epochs)
                self.checkpoint_or_stop(self.state.step)
        finally:
            self.observer.stop()
            self.checkpoints.wait()
        return records

    def _protect_best(self, records: list[dict[str, Any]]) -> None:
        """Has the best epoch's checkpoint kept, in process 0, which has all records and deletes."""
        best = best_record(records) if self.settings.train.keep_best else None
        if best is not None:
            self.checkpoints.protect(best["step"])

    def _is_exhausted(self, records: list[dict[str, Any]]) -> bool:
        """Whether `train.patience` ends the run here; process 0 decides for all."""
        patience = self.settings.train.patience
        if not patience:
            return False
        self.signal_sync.drain()  # as in `save`: no exchange may be under way
        return bool(distributed.broadcast_from_process_0(lambda: is_exhausted(records, patience)))

    def _check_complete(self, epochs: int) -> None:
        """Raises UserError if a checkpoint is of an epoch whose predecessor has no record.

        A record may be missing for the last epoch alone: it is written after the checkpoint.
        """
        whole = self.step // self.settings.steps_per_epoch
        if whole > epochs + 1:
            raise UserError(
                f"{self.run.path / 'metrics.jsonl'} has {epochs} of the {whole} epochs that were "
                "trained: restore it, or choose a new folder with --workdir"
            )

    def epoch(self, epoch: int) -> dict[str, Any]:
        """Trains what is left of an epoch, counted from 0, evaluates, and returns the record.

        The state is saved before it is evaluated, and is on disk when the record is returned.
        """
        began = time.monotonic()
        # A run goes on within an epoch, as its order follows from seed and epoch alone.
        offset = self.step - epoch * self.settings.steps_per_epoch
        if offset == 0:
            self.state = self.programs.begin_epoch(self.state)
        order = batches.shuffled_batches(
            self.settings.seed,
            epoch,
            self.settings.facts.train_examples,
            self.settings.train.batch_size,
        )
        images = 0
        log_every_steps = self.settings.train.log_every_steps
        for call in self.programs.calls(order[offset:]):
            self.state = self.programs.train(self.state, call)
            self.step += call.steps
            images += call.steps * self.settings.train.batch_size
            # A call of several steps may jump over the multiple.
            if self.step // log_every_steps > (self.step - call.steps) // log_every_steps:
                self.report_metrics(images / (time.monotonic() - began))
            self.checkpoint_or_stop(self.state.step)
        loss, accuracy = self.report_metrics(None)
        trained = time.monotonic() - began
        self.save()
        eval_loss, eval_accuracy = metrics.means(
            self.programs.evaluate(self.state, partial(self.checkpoint_or_stop, now=True))
        )
        self.checkpoints.wait()
        if not math.isfinite(eval_loss):
            raise UserError(
                f"the evaluation loss after step {self.step} is {eval_loss}; the state is saved: "
                f"{self._divergence_remedy()}"
            )
        return {
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": float(self.programs.optimizer.learning_rate(self.step - 1)),
            "train_loss": loss,
            "train_accuracy": accuracy,
            "eval_loss": eval_loss,
            "eval_accuracy": eval_accuracy,
            "skipped_steps": int(self.state.nonfinite["skipped"]),
            "seconds": round(time.monotonic() - began, 3),
            "images_per_second": round(images / trained, 1) if images else None,
        }

    def report_metrics(self, rate: float | None) -> tuple[float, float]:
        """Waits for the device and returns the epoch's (mean loss, accuracy) so far."""
        self.stop_if_not_finite()
        loss, accuracy = metrics.means(self.state.sums)
        if rate is not None and math.isfinite(loss):  # else all steps so far were skipped
            self.observer.step(self.step, loss, accuracy, rate)
        return loss, accuracy

    def save(self) -> None:
        """Starts writing a checkpoint of this step, unless there is one."""
        # Several processes save by collectives, during which no exchange may be under way.
        self.signal_sync.drain()
        self.stop_if_not_finite()
        self.checkpoints.save(self.step, self.state)
        self.saved_at = time.monotonic()

    def stop_if_not_finite(self) -> None:
        """Saves the state before a step that must not be taken, and raises UserError."""
        before = stopped(self.state, self.settings.max_nonfinite)
        if before is None:
            return
        step = int(before.step)
        self.checkpoints.save(step, before)
        self.checkpoints.wait()
        most = self.settings.max_nonfinite
        row = f", the last of {most} in a row," if most > 1 else ""
        raise UserError(
            f"the loss or a gradient of step {step + 1}{row} is not finite; the state after step "
            f"{step} is saved: {self._divergence_remedy()}"
        )

    def _divergence_remedy(self) -> str:
        """Returns the settings that help a training that diverges."""
        skip = (
            "" if self.settings.max_nonfinite > 1 else ", or continue with train.on_nonfinite=skip"
        )
        return (
            f"lower optim.peak_lr (now {self.settings.optim.peak_lr}) or set optim.clip_norm, and "
            f"use a new --workdir{skip}"
        )

    def checkpoint_or_stop(self, after: jax.Array, now: bool = False) -> None:
        """Saves if a checkpoint is due; saves and raises Interrupted if a signal has arrived.

        All processes do so at the same step: a signal to any process counts, and process 0's clock
        decides when a checkpoint is due.

        Args:
            after: A replicated number that the last program gives, see `SignalSync`.
            now: Exchange the signals of this call, instead of those of the call before.
        """
        seconds = 60 * self.settings.train.checkpoint_minutes
        is_due = distributed.is_process_0() and time.monotonic() - self.saved_at > seconds
        request = self.signal_sync(self.interrupts.received or int(is_due), after, now)
        if request:
            self.save()
        if request > 1:  # the number of a signal
            self.checkpoints.wait()
            raise Interrupted(request, self.step)
