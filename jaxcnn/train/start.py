"""A start of the program in a run folder: it is locked, the start and its warnings are noted."""

import contextlib
from collections.abc import Iterator

from jaxcnn.config.settings import Settings
from jaxcnn.errors import UserError
from jaxcnn.run.folder import RunDir
from jaxcnn.run.observers import WarningKeeper
from jaxcnn.runtime import environment, notices
from jaxcnn.runtime.compilation import has_onednn
from jaxcnn.train.initial import Weights


@contextlib.contextmanager
def noted(
    run: RunDir, settings: Settings, warned: WarningKeeper, weights: Weights | None = None
) -> Iterator[None]:
    """Holds the folder's lock while entered; environment.json gets the start and its warnings.

    Args:
        run: The run folder.
        settings: Written as config.json.
        warned: Observes the run; what it has kept at the end is noted as well.
        weights: What the run begins with, if not with random numbers.

    Raises:
        UserError: As `RunDir.locked`.
    """
    with run.locked(settings.to_json()):
        before = run.starts()
        this = {"dataset": settings.facts.fingerprint, "epochs": settings.train.epochs}
        if weights is not None:
            this["init_from"] = weights.as_json()
        called = bool(settings.train.onednn) and has_onednn()
        this = {**environment.describe(), **this, "onednn": called, "warnings": notices.kept()}
        run.add_start(this)
        try:
            yield
        finally:
            warnings = [*notices.kept(), *warned.kept]
            # Where the run ends for an error, such as a full disk, that is what has to be told.
            with contextlib.suppress(UserError):
                if warnings != this["warnings"]:
                    this["warnings"] = warnings
                    run.write_json("environment.json", {"starts": [*before, this]})
