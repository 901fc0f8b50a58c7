"""Files and folders that are whole or not there, and held by one process; and where what can be made again is kept."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Where warm-ups (and converted models) are kept: $MINICPPO_CACHE, or runs/.cache under the working directory."""
    return Path(os.environ.get("MINICPPO_CACHE") or "runs/.cache").expanduser()


@contextmanager
def atomically(path: Path, shared: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder at: forced to disk and renamed at the end of the block.

    A reader finds the old content or the new, never half of one; what raises leaves nothing behind.

    Args:
        shared: several processes may write this folder at once, all the same content: the first one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    _remove(scratch)  # of a writer that was killed
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)) if shared else None
    scratch = beside / path.name if beside else scratch
    try:
        yield scratch
        for part in [*scratch.rglob("*"), scratch]:
            _force_to_disk(part)
        try:
            os.replace(scratch, path)
        except OSError:
            if not (shared and path.is_dir()):
                raise
        _force_to_disk(path.parent)
    finally:
        _remove(beside or scratch)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole at any time."""
    with atomically(path) as scratch:
        scratch.write_bytes(content)


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however it ends.

    Raises:
        BlockingIOError: another process holds it; `taken` is the rest of the sentence.
    """
    with open(os.open(folder / ".lock", os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder} is being written by another {taken}") from None
        yield


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
