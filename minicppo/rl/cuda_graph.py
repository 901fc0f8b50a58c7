"""A step that a GPU makes many times, recorded once: to launch its kernels one by one takes longer than they do."""

from collections.abc import Callable, Hashable
from functools import cache

import torch

SPARE = 1 << 30  # bytes of freed memory that may stay: what recordings that are gone have used is not found again


class Replay:
    """Makes steps that work in place on tensors that stay the same while their key does.

    One CUDA graph serves a key. The first step is made plainly where something sets itself up at it: libraries in a
    process, and autocast, which casts the weights once.
    """

    ready = False  # libraries are

    def __init__(self, device: torch.device) -> None:
        self.device, self.warm = device, False
        self.forget()

    def forget(self) -> None:
        """The tensors are others from now on."""
        self.graph: torch.cuda.CUDAGraph | None = None
        self.key: Hashable = None

    def __call__(self, key: Hashable, step: Callable[[], None]) -> None:
        with torch.cuda.device(self.device):
            if not self.warm and (not Replay.ready or torch.is_autocast_enabled("cuda")):
                step()
                self.warm = Replay.ready = True
                return
            if self.graph is None or self.key != key:
                self.graph, self.key = None, key  # the old one first: its memory is free then
                self.graph = _record(step)
            self.graph.replay()


def _record(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of the step, which is not made. `torch.cuda.graph` would collect garbage and empty caches before."""
    if torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > SPARE:
        torch.cuda.empty_cache()
    stream, current = _stream(torch.cuda.current_device()), torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
    current.wait_stream(stream)
    return graph


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for all recordings: matrix libraries hold a workspace for each stream they ever saw."""
    return torch.cuda.Stream(device)
