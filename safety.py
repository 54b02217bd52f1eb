"""What keeps a run from being lost, whatever happens around it. Nothing here is about Transformers.

A file is replaced as a whole or not at all. Ctrl-C and SIGTERM wait until a checkpoint is saved. Only one
process at a time writes into a folder. What needs more memory than there is is refused before it begins.
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
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import torch

try:
    import fcntl  # Linux and macOS
except ImportError:
    import msvcrt  # Windows

_, _, backend = os.environ.get("MPLBACKEND", "").partition("module://")
if backend and find_spec(backend.split(".")[0]) is None:    # exported by a notebook, in which it is installed
    del os.environ["MPLBACKEND"]                            # importing matplotlib would fail

LOCKED_BYTE = 2**30                                         # far behind the text, which stays readable


# ---------------------------------------------------------------- files


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can; Windows does so by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        with suppress(OSError):                             # some file systems cannot
            os.fsync(descriptor)
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of path once it is written whole, so a crash loses nothing.

    OSError that names path where it cannot be written; the old file is then as it was.
    """
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())                         # on the disk, not only on its way there
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed had begun to write here."""
    for path in folder.glob(".*.writing*"):
        path.unlink(missing_ok=True)


# ---------------------------------------------------------------- checkpoints of strangers


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_zip(archive: zipfile.ZipFile) -> None:
    """ValueError or BadZipFile where a checksum is wrong, or where a small file would take much memory."""
    if sum(entry.file_size for entry in archive.infolist()) > archive.fp.seek(0, os.SEEK_END):
        raise ValueError("it would expand when unpacked")
    if damaged := archive.testzip():
        raise ValueError(f"the checksum of {damaged!r} is wrong")


BYTES = {                                                   # of a number in each kind of storage
    "BoolStorage": 1, "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2,
    "BFloat16Storage": 2, "IntStorage": 4, "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8,
}


class Inventory(pickle._Unpickler):
    """Reads a pickle of torch.save without making a tensor, and lists the storages that the tensors need.

    ValueError for a name of code that plain values and tensors do not need, before anything is called. The
    base is the unpickler written in Python: for one wrong byte, that in C was seen to take 17 GB.
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
    """Some exception where a file is not what torch.save makes of plain values and tensors.

    It is a zip file. torch.load does not compare the checksums in it, and so accepts nearly every flipped
    bit; version 2.7 also reads beyond the end of a storage that is too short.
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
    """The plain values and tensors that torch.save wrote, on the CPU. ValueError, in one line, where not."""
    with open(path, "rb") as file:
        try:
            check_archive(file)
        except Exception as error:                          # a broken file can fail in any way
            raise ValueError(first_line(error)) from error
        try:
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:                          # whose text advises to load it unsafely
            raise ValueError("torch.load cannot read it") from error


def is_of(value: object, wanted: type) -> bool:
    """Whether a value is of this type, where True and False are no numbers."""
    return isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)


def difference(expected: object, found: object, name: str = "it") -> str | None:
    """The first way in which found differs from expected in keys, types or shapes, or is NaN or infinite.

    A type stands for all of its values.
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
    """Go on with the digest of plain values and tensors, whatever device they are on."""
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            digest.update(str(name).encode())
            update_digest(digest, value[name])
    elif isinstance(value, torch.Tensor):
        digest.update(value.cpu().contiguous().numpy())
    else:
        digest.update(repr(value).encode())


def seal_of(checkpoint: dict) -> str:
    """SHA-256 of all its parts but those that are added later."""
    digest = hashlib.sha256()
    update_digest(digest, {name: checkpoint[name] for name in checkpoint if name not in ("seal", "known")})
    return digest.hexdigest()


def copied(value: object) -> object:
    """A copy of plain values and tensors; deepcopy takes several times as long."""
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(copied, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def sealed(checkpoint: dict) -> dict:
    """A copy, with a seal that tells whether its parts still belong together, which no zip file knows."""
    return copied(checkpoint) | {"seal": seal_of(checkpoint)}


def is_sealed(checkpoint: dict) -> bool:
    """Whether its parts are those that were sealed."""
    try:
        return seal_of(checkpoint) == checkpoint["seal"]
    except Exception:                                       # parts of a broken file can be anything
        return False


# ---------------------------------------------------------------- signals


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM that come within the block take effect at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield                                               # only the main thread is ever interrupted
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


# ---------------------------------------------------------------- one process a folder


def take_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process has; the system unlocks it when the process ends, however."""
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
    """Whether an open file still has this path, and nobody has removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def open_locked(path: Path) -> int:
    """Open a file, made if need be, lock it, and write the number of this process into it.

    OSError with the number of the other process that has locked it.
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
        os.close(descriptor)                                # not before: another could have it by now


def remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):                             # it is not empty, or gone
            folder.rmdir()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder, which is made, and removed if it stays empty.

    OSError with the number of the other process where there is one. Its lock never outlives it.
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
    """The bytes of memory that a device has, or that a container may use; infinite where nobody knows."""
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
        with suppress(OSError, ValueError):                 # there is none, or it is "max"
            known.append(int(Path(path).read_text()))
    return min(known)


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def size_text(size: float) -> str:
    """Bytes as a person says them: 25 GB, 1.2 TB."""
    units = "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"
    power = min(len(units), max(1, math.floor(math.log10(size) / 3)))
    return f"{size / 1000**power:.3g} {units[power - 1]}"
