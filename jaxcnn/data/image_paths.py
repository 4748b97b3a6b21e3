"""Which image files do names, folders and patterns mean?"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
# Folders and files in which macOS, Windows and Synology keep copies, previews and settings that are
# no images of one's own. Jupyter's .ipynb_checkpoints is hidden anyway.
_UNWANTED = (
    "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini",
)  # fmt: skip


class _NoImage(Exception):
    """A name means no image file; the message says why, in one line."""


def find(names: Iterable[str], refuse: Callable[[str], None]) -> list[Path]:
    """Returns the image files that names mean: files, folders with all below, glob patterns.

    Hidden files and folders, and those that programs keep for themselves, are left out where they
    are not named themselves.

    Args:
        names: Of files and folders, and patterns. A folder that a pattern matches is searched.
        refuse: Gets a line about each name that means no image file; the others are found anyway.
    """
    found: dict[Path, None] = {}
    for name in names:
        try:
            found.update(dict.fromkeys(_meant(name, refuse)))
        except _NoImage as error:
            refuse(str(error))
    return list(found)


def _meant(name: str, refuse: Callable[[str], None]) -> list[Path]:
    """Returns the files that one name means.

    Raises:
        _NoImage: If there is none.
    """
    if os.path.isdir(name):
        if inside := _inside(name, refuse):
            return inside
        raise _NoImage(f"{name} holds no image: looked for {', '.join(SUFFIXES)}")
    try:
        os.lstat(name)
        return [Path(name)]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise _NoImage(
            f"{name}: {error.strerror}: name image files, folders or patterns"
        ) from error
    # What a person names with the name of such a folder is meant.
    unwanted = [folder for folder in _UNWANTED if folder not in Path(name).parts]
    matches = [
        match
        for match in sorted(glob.glob(name, recursive=True))
        if not set(unwanted) & set(Path(match).parts)
    ]
    folders = [match for match in matches if os.path.isdir(match)]
    meant = [Path(match) for match in matches if match not in folders]
    for folder in folders:
        meant += _inside(folder, refuse)
    if folders and not meant:
        raise _NoImage(
            f"{name} matches {len(folders)} folder{'s' * (len(folders) > 1)} without an image: "
            f"looked for {', '.join(SUFFIXES)}"
        )
    if not meant:
        raise _NoImage(f"{name}: no such file: name image files, folders or patterns")
    return sorted(set(meant))


def _inside(folder: str, refuse: Callable[[str], None]) -> list[Path]:
    """Returns the image files below a folder; `refuse` gets a line about one that is unreadable."""
    return sorted(path for path in files_below(folder, refuse) if is_image_name(path.name))


def files_below(folder: str | Path, refuse: Callable[[str], None]) -> Iterator[Path]:
    """Yields all files below a folder, in no order, but for those that programs keep there.

    Args:
        folder: Where to look.
        refuse: Gets a line about each folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        refuse(f"{error.filename}: {error.strerror}: make the folder readable")

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not is_private(name)]
        yield from (Path(place, name) for name in files if not is_private(name))


def is_image_name(name: str) -> bool:
    """Tells whether a file of this name should hold an image."""
    return Path(name).suffix.lower() in SUFFIXES


def is_private(name: str) -> bool:
    """Tells whether a file or folder of this name is a program's own, not a person's."""
    return name.startswith(".") or name in _UNWANTED
