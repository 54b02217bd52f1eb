"""Replace files atomically, check them when they are read, and let one process at a time write a folder."""

import errno
import os
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def format_error(error: Exception) -> str:
    """Describe an error in a line: its type, its message and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first_line(error)} ({Path(frame.filename).name}, line {frame.lineno})"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces path once fully written, so that a crash loses nothing.

    If it cannot be written, raise an OSError naming path, and leave the old file unchanged.
    """
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())                         # on disk, not just in a cache
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write a text file as a whole, in UTF-8."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def check_zip(path: Path) -> None:
    """Raise ValueError or BadZipFile if a checksum in a zip file is wrong; torch.load ignores them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged!r} is wrong")


def read_archive(path: Path) -> object:
    """Load tensors and plain values saved by torch.save, on the CPU; code in the file is never run.

    Raises a one-line ValueError if the file is damaged.
    """
    try:
        check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:                              # a broken file can fail in any way
        raise ValueError(first_line(error)) from error


@contextmanager
def folder_lock(folder: Path, wait: bool = False) -> Iterator[None]:
    """Make this the only process writing to a folder, which is created. A lock never outlives its process.

    If another process is writing there, wait for it to finish, or else raise BlockingIOError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / ".lock"
    try:
        with FileLock(lock, timeout=-1 if wait else 0):
            try:
                yield
            finally:
                with suppress(OSError):                     # Windows cannot remove an open file
                    lock.unlink()
    except Timeout:
        reason = "another process is already writing there; wait for it to finish, or choose another folder"
        raise BlockingIOError(errno.EAGAIN, reason, str(folder)) from None
