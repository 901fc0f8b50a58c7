"""What every benchmark shares: its options, the clock, the machine, and the form of its result."""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

STARTED = time.perf_counter()
RESULTS = Path(__file__).parent / "results"


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help keeps the lines of a file's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def options(description: str | None, *, once: bool = False, **defaults: Any) -> argparse.ArgumentParser:
    """--device, --threads, --repeats, --small and --json; a benchmark adds its own.

    once: it measures once, on the CPU; --device and --repeats are no options of it.
    """
    parser = parser_of(description)
    if once:
        parser.set_defaults(device="cpu", repeats=1)
    else:
        parser.add_argument("--device", default="cpu", type=_device, help="cpu or cuda")
        parser.add_argument("--repeats", type=int, default=7, help="each candidate's turns; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on the CPU")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time: of one thread, on a machine that is busy"
    )
    parser.add_argument("--small", action="store_true", help="tiny sizes, in seconds: the figures mean nothing")
    parser.add_argument("--json", type=Path, help="where the rows go (default: results/ here; --small: nowhere)")
    parser.set_defaults(**defaults)
    return parser


def _device(name: str) -> str:
    """The device's name, if it is one of the two and is here."""
    if name not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{name!r} is neither cpu nor cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no CUDA GPU here; leave --device out to run on the CPU")
    return name


def seconds(
    functions: Mapping[str, Callable[[], object]],
    repeats: int,
    what: str = "",
    warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each, the candidates taking turns so that a busy machine slows all alike.

    Shows turns done and time left, between turns alone. warm: all have just run, and need no turn that does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    rounds = repeats + (not warm)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        task, shown = bar.add_task(what, total=rounds * len(functions)), 0.0
        for _ in range(rounds):
            for name, function in functions.items():
                synchronize()
                start = clock()
                function()
                synchronize()
                end = clock()
                times[name].append(end - start)
                bar.advance(task)
                if end - shown > 0.2:
                    bar.refresh()
                    shown = end
    found = {name: statistics.median(values[-repeats:]) for name, values in times.items()}
    if what:
        print(f"{what}: {', '.join(f'{name} {took:.3g} s' for name, took in found.items())}", file=sys.stderr)
    return found


def synchronize() -> None:
    """Wait for the GPU, if this process has used one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def kernel_seconds(functions: Sequence[Callable[[], object]], rounds: int) -> float:
    """Mean seconds that a GPU's kernels take in one call, the gaps between them and the host's work left out.

    The functions, alike but for their inputs, take turns: so that together they do not fit into its cache.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(rounds):
            for function in functions:
                function()
        synchronize()
    total = sum(event.self_device_time_total for event in profile.key_averages())  # microseconds
    return 1e-6 * total / (rounds * len(functions))


def copy_bandwidth(device: str | torch.device = "cpu", size: int = 64 << 20, repeats: int = 7) -> float:
    """Bytes read and written per second by a copy of `size` bytes; on a GPU by its kernel, of 16 times as many."""
    gpu = torch.device(device).type == "cuda"
    source = torch.ones((16 if gpu else 1) * size // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    took = kernel_seconds([copy], repeats) if gpu else seconds({"copy": copy}, repeats)["copy"]
    return 2 * source.nbytes / took


class Products:
    """Float32 matrix products of 1,024 x 1,024 as one more candidate of `seconds`: the machine's limit beside the rest.

    Of the libraries that torch has on a CPU the faster: MKL, which `torch.mm` calls, leaves half of an AMD processor's
    vectors unused, and oneDNN does not. On a GPU they run as the models' do, without TF32.
    """

    def __init__(self, device: str | torch.device = "cpu", count: int = 5):
        a, b = torch.randn(2, 1024, 1024, device=device)
        ways: list[Callable[[], Tensor]] = [lambda: torch.mm(a, b)]
        if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
            ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
        took = seconds({str(i): way for i, way in enumerate(ways)}, 3, clock=time.process_time)
        self.product = ways[int(min(took, key=lambda i: took[i]))]
        self.work = 2e-9 * 1024**3 * count
        self.count = count

    def __call__(self) -> None:
        for _ in range(self.count):
            self.product()

    def share(self, gigaflop: float, took: float, limit: float) -> dict[str, float]:
        """Columns of a row: GFLOP/s of useful products, those of the machine, and the share.

        gigaflop: of useful products, made in `took` seconds; limit: seconds of one call of this.
        """
        found, most = gigaflop / took, self.work / limit
        return {"gflops": found, "machine_gflops": most, "of_machine": found / most}


def qwen3(shape: Sequence[int], **settings: Any) -> Any:
    """A Qwen3-like model with random weights. shape: vocabulary, width, inner width, layers, heads, of keys, head's."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    sizes = dict(zip([*names.split(), "head_dim"], shape, strict=True))
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**sizes, **settings, pad_token_id=0)).eval()


def products_of(model: torch.nn.Module) -> int:
    """Multiplications that one token passes in the matrices of a model, its head included, attention left out."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))


def machine(device: str | torch.device = "cpu") -> dict[str, Any]:
    """Where a figure was measured."""
    device = torch.device(device)
    return {
        "processor": processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
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


def store(args: argparse.Namespace, name: str, rows: Sequence[Any], *, done: bool = True, **more: Any) -> None:
    """Write what has been measured as JSON: where --json says, else, but for --small, to results/NAME.json here.

    Until it is done it goes to NAME.partial.json: an interrupted run loses no row, and replaces no finished result.
    """
    if args.small and not args.json:
        return
    path = args.json or RESULTS / (f"{name}.json" if args.device == "cpu" else f"{name}-{args.device}.json")
    partial = path.with_suffix(".partial.json")
    result = {
        "benchmark": name,
        "machine": machine(args.device),
        "commit": commit(),
        "repeats": args.repeats,
        "took_s": round(time.perf_counter() - STARTED, 1),
        **more,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    (path if done else partial).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if done:
        partial.unlink(missing_ok=True)


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown of the rows. columns: header -> format of a row, as in "{loop_ms:.1f}"."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(form.format(**row) for form in columns.values())} |" for row in rows]
    return "\n".join(lines)
