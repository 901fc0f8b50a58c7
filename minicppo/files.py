"""Files and folders that are whole or not there, held by one process, no links, and named where they are damaged.

And where what can be made again is kept.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

MOST = 300  # characters of a library's error that are shown


def cache_dir() -> Path:
    """Where warm-ups (and converted models) are kept: $MINICPPO_CACHE, or runs/.cache under the working directory."""
    return Path(os.environ.get("MINICPPO_CACHE") or "runs/.cache").expanduser()


def user_cache() -> Path:
    """The user's own folder for what is made once and kept. Raises RuntimeError where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minicppo"


@contextmanager
def atomically(path: Path, shared: bool = False) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder at: forced to disk and renamed at the end of the block.

    A reader finds the old content or the new, never half of one; what raises leaves nothing behind. It is written in a
    new folder of this process's own, so that no link laid there is followed.

    shared: several processes may write this folder at once, all the same content: the first one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.iterdir():
        writer = re.fullmatch(r"\..+\.(\d{1,9})\.[a-z0-9_]{8}", left.name)  # also of a name that nobody writes again
        if writer and not shared and not _alive(int(writer[1])):  # shared: maybe on another machine
            _remove(left)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent))
    scratch = beside / path.name
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
    except Exception as error:  # safetensors has an error of its own for what the system says, such as a full disk
        if said := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(said[1]), os.strerror(int(said[1])), str(path)) from error
        raise
    finally:
        _remove(beside)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is whole at any time."""
    with atomically(path) as scratch:
        scratch.write_bytes(content)


def digest(file: Path) -> str:
    """The SHA-256 of its content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kept(name: str, sources: Iterable[Path], make: Callable[..., Any], *given: Any) -> Any:
    """`make(*given)`, which is plain JSON: from the user's own folder where the same sources made it before."""
    key = hashlib.sha256(repr(given).encode() + b"".join(path.read_bytes() for path in sources)).hexdigest()
    with suppress(OSError, ValueError, RuntimeError):  # nothing is kept, it is damaged, or there is no home
        return json.loads((user_cache() / f"{name}-{key[:16]}.json").read_text(encoding="utf-8"))
    made = json.dumps(make(*given), allow_nan=False)
    with suppress(OSError, RuntimeError):  # a home that cannot be written to
        write_atomically(user_cache() / f"{name}-{key[:16]}.json", made.encode())
    return json.loads(made)


@contextmanager
def locked(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however it ends.

    Raises BlockingIOError: another process holds it; `taken` is the rest of the sentence.
    """
    with open_in_place(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder} is being written by another {taken}") from None
        yield


def open_in_place(path: Path, mode: str) -> IO[str]:
    """`open` for writing, UTF-8. Raises ValueError: the path is a link of either kind, or no file: it is left alone."""
    with suppress(FileNotFoundError):
        there = path.lstat()
        if not stat.S_ISREG(there.st_mode) or there.st_nlink > 1:
            kind = "a link" if path.is_symlink() or path.is_file() else "no file"
            raise ValueError(f"{path} is {kind}, and would be written to. Way out: put the file itself there")
    return open(path, mode, encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


class Damaged(ValueError):
    """A file is not what it should be."""


@contextmanager
def reading(path: Path, way_out: str = "put an undamaged copy there") -> Iterator[None]:
    """Whatever a library raises about the content of a file, or folder of files, as one line that names it.

    Raises Damaged with the path, the reason and the way out. The system's own errors, and a package that is missing,
    have lines of their own.
    """
    try:
        yield
    except (Damaged, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = " ".join((str(error) if not isinstance(error, KeyError) else f"no {error}").split())
        why = (why if len(why) < MOST else f"{why[:MOST]} ...") or type(error).__name__
        raise Damaged(f"{path} cannot be used: {why.rstrip('.')}. Way out: {way_out}") from error


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _force_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
