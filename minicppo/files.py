"""Files that are whole or not there, and where what can be made again is kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """Where warm-ups (and converted models) are kept: $MINICPPO_CACHE, or runs/.cache under the working directory."""
    return Path(os.environ.get("MINICPPO_CACHE") or "runs/.cache").expanduser()


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: a reader finds the old content or the new, never half of one."""
    scratch = path.with_name(f".{path.name}.tmp")
    with open(scratch, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
