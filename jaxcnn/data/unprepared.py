"""TFDS's builders of data sets that are not prepared yet, without what they leave behind."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow_datasets as tfds


@contextlib.contextmanager
def builders() -> Iterator[None]:
    """While entered, a builder of data that are not prepared can be made.

    Without this each leaves an empty folder in the system's folder of temporary files, which it
    makes to copy a description from a bucket; whether there is one it finds out only then, and by
    default TFDS reads no bucket (tfds 4.9.10, `DatasetInfo.initialize_from_bucket`).
    """
    with mock.patch.object(tfds.core.DatasetInfo, "initialize_from_bucket", lambda self: None):
        yield
