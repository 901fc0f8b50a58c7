"""What every benchmark shares: its options, the clock, the machine, and the form of its result."""

import argparse
import json
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def options(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """--device, --threads, --repeats, --small and --json; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument("--repeats", type=int, default=7, help="each candidate's turns; the median counts")
    parser.add_argument("--small", action="store_true", help="tiny sizes, in seconds: the figures mean nothing")
    parser.add_argument("--json", type=Path, help="where the rows go (default: benchmarks/results; --small: nowhere)")
    parser.set_defaults(**defaults)
    return parser


def seconds(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, the candidates taking turns so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(repeats):
        for name, function in functions.items():
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize() -> None:
    """Wait for the GPU, if this process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def copy_bandwidth(device: str | torch.device = "cpu", size: int = 64 << 20, repeats: int = 7) -> float:
    """Bytes read and written per second by a plain copy of `size` bytes."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds({"copy": lambda: target.copy_(source)}, repeats)["copy"]


def machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Where a figure was measured."""
    device = torch.device(device)
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name as Linux tells it, or what Python knows."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The short commit of the working tree, with a + when it has changes; None outside a checkout."""
    found = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None


def write(
    path: Path | None, name: str, repeats: int, rows: Sequence[Any], *, device: str | torch.device = "cpu", **more: Any
) -> None:
    """Write a benchmark's result as JSON. path: None means benchmarks/results/NAME.json, or NAME-cuda.json."""
    kind = torch.device(device).type
    path = path or RESULTS / (f"{name}.json" if kind == "cpu" else f"{name}-{kind}.json")
    result = {
        "benchmark": name,
        "machine": machine(device),
        "commit": commit(),
        "repeats": repeats,
        **more,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown of the rows. columns: header -> format of a row, as in "{loop_ms:.1f}"."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(form.format(**row) for form in columns.values())} |" for row in rows]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
