"""When kernels take over: asked without a GPU, of what stands in for a tensor on one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minicppo import kernels

THERE: Any = SimpleNamespace(is_cuda=True, device=SimpleNamespace(index=0))


@pytest.fixture(autouse=True)
def all_there(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: name)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.delenv("MINICPPO_KERNELS", raising=False)
    _forget()
    yield
    _forget()


def _forget() -> None:
    kernels._compiles.cache_clear()
    kernels._known.cache_clear()


def test_a_gpu_with_triton_and_a_compiler():
    assert kernels.usable(THERE)
    assert not kernels.usable(torch.ones(1))


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("minicppo.kernels.find_spec", lambda name: None),
        ("shutil.which", lambda name: None),
        ("torch.cuda.get_device_capability", lambda index: (6, 1)),
    ],
)
def test_what_is_missing_leaves_the_work_to_pytorch(monkeypatch, where, what):
    monkeypatch.setattr(where, what)
    assert not kernels.usable(THERE)


def test_the_way_out(monkeypatch):
    monkeypatch.setenv("MINICPPO_KERNELS", "0")
    assert not kernels.usable(THERE)
