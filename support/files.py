"""Protect runs against crashes, interrupts and full disks. Nothing here is specific to Transformers.

Files are replaced atomically. Ctrl-C and SIGTERM are deferred until a checkpoint has been saved. Only one
process at a time may write to a folder. Runs that would need more memory than is available are refused at the
start.
"""

import ctypes
import errno
import hashlib
import io
import math
import os
import pickle
import signal
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch

try:
    import fcntl  # Linux and macOS
except ImportError:
    import msvcrt  # Windows

LOCKED_BYTE = 2**30                                         # far beyond the text, which stays readable


# ---------------------------------------------------------------- files


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the system allows; Windows does this by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):                             # some file systems cannot
            os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces path once fully written, so that a crash loses nothing.

    If it cannot be written, raise an OSError naming path, and leave the old file unchanged.
    """
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())                         # on disk, not just in a cache
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove partial files left here by a killed process."""
    for path in folder.glob(".*.writing*"):
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- untrusted checkpoints


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_zip(archive: zipfile.ZipFile) -> None:
    """Raise ValueError or BadZipFile for a wrong checksum, or if the file would expand when unpacked."""
    if sum(entry.file_size for entry in archive.infolist()) > archive.fp.seek(0, os.SEEK_END):
        raise ValueError("it would expand when unpacked")
    if damaged := archive.testzip():
        raise ValueError(f"the checksum of {damaged!r} is wrong")


BYTES = {                                                   # per element, for each storage type
    "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2,
    "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8,
}


class Inventory(pickle._Unpickler):
    """Read a torch.save pickle without creating tensors, and list the storages they need.

    Raises ValueError for any code reference that plain values and tensors do not need, before calling
    anything. It extends the pure-Python unpickler: with one corrupted byte, the C version was seen to
    allocate 17 GB.
    """

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.storages: list[tuple] = []                     # ("storage", bytes, key, device, count)

    def find_class(self, module: str, name: str) -> object:
        if module == "torch" and name in BYTES:
            return BYTES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *parts: None
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise ValueError(f"it would run code ({module}.{name}), so it was not written by train.py")

    def persistent_load(self, storage: tuple) -> None:
        self.storages.append(storage)


def check_archive(file: BinaryIO) -> None:
    """Raise an exception if a file is not a torch.save archive of plain values and tensors.

    Such an archive is a zip file. torch.load does not verify its checksums, so it accepts almost any flipped
    bit; version 2.7 also reads past the end of a truncated storage.
    """
    with zipfile.ZipFile(file) as archive:
        check_zip(archive)
        size_of = {entry.filename: entry.file_size for entry in archive.infolist()}
        pickled = [name for name in size_of if name.endswith("data.pkl")]
        if len(pickled) != 1:
            raise ValueError("it was not written by torch.save")
        inventory = Inventory(archive.read(pickled[0]))
        inventory.load()
        for _, number, key, _, count in inventory.storages:
            if size_of.get(pickled[0].replace("data.pkl", f"data/{key}")) != count * number:
                raise ValueError(f"storage {key!r} is missing or has the wrong size")


def read_archive(path: Path) -> object:
    """Load plain values and tensors from torch.save, on the CPU. Raises a one-line ValueError otherwise."""
    with open(path, "rb") as file:
        try:
            check_archive(file)
        except Exception as error:                          # a broken file can fail in any way
            raise ValueError(first_line(error)) from error
        try:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:                          # its message recommends loading unsafely
            raise ValueError("torch.load cannot read it") from error


def is_of(value: object, wanted: type) -> bool:
    """Return whether a value has this type, not counting True and False as numbers."""
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)


def difference(expected: object, found: object, name: str = "it") -> str | None:
    """Describe how found first differs from expected in keys, types or shapes, or is NaN or infinite.

    In expected, a type matches any value of that type.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *found]:
            if key not in found or key not in expected:
                return f"{key} is {'missing' if key in expected else 'unexpected'}"
            if differs := difference(expected[key], found[key], key):
                return differs
        return None
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        if found.shape != expected.shape:
            return f"{name} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        if found.dtype != expected.dtype or found.layout != expected.layout:
            return f"{name} has dtype {found.dtype}, not {expected.dtype}"
        return None if found.isfinite().all() else f"{name} contains infinite or NaN values"
    wanted = expected if isinstance(expected, type) else type(expected)
    if not is_of(found, wanted):
        return f"{name} is a {type(found).__name__}, not a {wanted.__name__}"
    if isinstance(found, float) and not math.isfinite(found):
        return f"{name} is {found}"
    return None


def update_digest(digest: "hashlib._Hash", value: object) -> None:
    """Add plain values and tensors, on any device, to the digest."""
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            digest.update(str(name).encode())
            update_digest(digest, value[name])
    elif isinstance(value, torch.Tensor):
        digest.update(value.cpu().contiguous().numpy())
    else:
        digest.update(repr(value).encode())


def seal_of(checkpoint: dict) -> str:
    """Return the SHA-256 of the checkpoint, except for the parts added later."""
    digest = hashlib.sha256()
    update_digest(digest, {name: checkpoint[name] for name in checkpoint if name not in ("seal", "known")})
    return digest.hexdigest()


def copied(value: object) -> object:
    """Copy plain values and tensors; deepcopy takes several times as long."""
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def sealed(checkpoint: dict) -> dict:
    """Return a copy with a checksum showing that its parts belong together, which a zip file cannot show."""
    return copied(checkpoint) | {"seal": seal_of(checkpoint)}


def is_sealed(checkpoint: dict) -> bool:
    """Return whether the checkpoint still matches its checksum."""
    try:
        return seal_of(checkpoint) == checkpoint["seal"]
    except Exception:                                       # a corrupted file can contain anything
        return False


# ---------------------------------------------------------------- signals


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield                                               # Python handles signals in the main thread only
        return
    arrived = []
    signals = signal.SIGINT, signal.SIGTERM
    before = {each: signal.signal(each, lambda number, frame: arrived.append(number)) for each in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        if arrived:
            signal.raise_signal(arrived[0])


# ---------------------------------------------------------------- one process per folder


def take_lock(descriptor: int) -> bool:
    """Try to lock an open file; the system releases the lock however the process ends."""
    try:
        if os.name == "posix":
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:                                         # a file system without locks
        return True
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def open_locked(path: Path) -> int:
    """Open a file, creating it if necessary, lock it, and write this process's ID into it.

    If another process holds the lock, raise an OSError giving its ID.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        is_free = take_lock(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if not is_free:
            number = os.read(descriptor, 20).decode(errors="replace")
            os.close(descriptor)
            other = f"process {number}" if number else "another process"
            reason = f"{other} is already writing there; wait for it to finish, or choose another folder"
            raise OSError(errno.EBUSY, reason, str(path.parent))
        if is_same_file(descriptor, path):
            break
        os.close(descriptor)                                # its last owner has just removed it
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def remove_locked(path: Path, descriptor: int) -> None:
    if os.name != "posix":
        os.close(descriptor)                                # Windows cannot remove a file that is open
    with suppress(OSError):
        path.unlink()
    if os.name == "posix":
        os.close(descriptor)                                # unlink first: once closed, another could lock it


def remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):                             # not empty, or already gone
            folder.rmdir()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make this the only process writing to a folder, which is created, and removed if still empty.

    If another process is writing there, raise an OSError giving its ID. A lock never outlives its process.
    """
    path, made = folder / ".lock", [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = open_locked(path)
        try:
            remove_unfinished(folder)
            yield
        finally:
            remove_locked(path, descriptor)
    finally:
        remove_empty(made)


# ---------------------------------------------------------------- memory


def total_memory(device: torch.device) -> float:
    """Return the memory of a device, or the container's limit, in bytes; infinite if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    known = [math.inf]
    if hasattr(os, "sysconf"):
        known.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    else:
        kilobytes = ctypes.c_ulonglong()
        if ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes)):
            known.append(1024 * kilobytes.value)
    for path in "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes":
        with suppress(OSError, ValueError):                 # it does not exist, or is "max"
            known.append(int(Path(path).read_text()))
    return min(known)


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def size_text(size: float) -> str:
    """Format a number of bytes for display: 25 GB, 1.2 TB."""
    units = "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"
    power = min(len(units), max(1, math.floor(math.log10(size) / 3)))
    return f"{size / 1000**power:.3g} {units[power - 1]}"
