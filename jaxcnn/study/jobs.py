"""A training of several: what it is called, how it is configured and where it lies."""

from pathlib import Path
from typing import NamedTuple

from ml_collections import config_dict


class Job(NamedTuple):
    """A training to be done.

    Attributes:
        name: What to call it.
        config: Its configuration.
        path: Its run folder.
    """

    name: str
    config: config_dict.ConfigDict
    path: Path
