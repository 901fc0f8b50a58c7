"""On a GPU the kernels run as they are. Without one Triton interprets them, if told before they are imported."""

import os

import pytest
import torch

if torch.cuda.is_available():
    DEVICE = "cuda"
else:
    DEVICE = "cpu"
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skipif(not _triton(), reason="Triton is not installed: make test-kernels")
    unseen = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # in lanes that a kernel masks
    for item in items:
        if "tests/kernels/test_kernels" in item.nodeid:
            item.add_marker(missing)
            item.add_marker(unseen)


def _triton() -> bool:
    try:
        import triton
    except ImportError:
        return False
    return hasattr(triton, "jit")
