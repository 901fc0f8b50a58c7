"""Two processes (gloo, on the CPU) make the loss and gradients of one: under DDP and FSDP2, with active masks."""

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from minicppo.inspect import inspect
from tests.engines.stale import torchrun
from tests.engines.trl_setup import feature


@feature("two processes: DDP", "works")
@feature("two processes: FSDP2 with a `rollout_func`", "works")
@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    torchrun(2, "-m", "tests.engines.trl_worker", str(tmp_path), ACCELERATE_USE_CPU="true")
    masked = {path.name: float(path.read_text()) for path in tmp_path.glob("*-*")}
    assert len(masked) == 6, "a case of an engine each"
    recorded = inspect([tmp_path / "log"]).report
    assert [Path(file).name for file in recorded["files"]] == [f"step_00000000-rank_{rank}.parquet" for rank in (0, 1)]
    assert recorded["masked"] == pytest.approx(masked["ddp-cppo"])
