"""What a plan says of TRL's settings is what the TRL engine sets."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")
pytest.importorskip("math_verify", reason="task math needs math-verify: pip install -e '.[math]'")

from minicppo.engines.plan import make_plan
from minicppo.engines.trl_run import trl_config
from minicppo.rl.config import load_config


@pytest.mark.parametrize("preset", ["qwen3-0.6b-base", "qwen3-1.7b", "qwen3-8b-base"])
@pytest.mark.parametrize("method", ["cppo-topk", "grpo"])
def test_planned_settings_are_the_engines(
    preset: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)  # one process, hence one GPU
    overrides = ["engine=trl", f"method={method}", "cluster.gpus_per_node=1", "cluster.overrides=[vllm_mode=server]"]
    config = load_config(preset, overrides)
    planned = make_plan(config, tmp_path, [preset]).settings
    assert (planned.pop("bf16"), planned.pop("use_cpu")) == ("True", "False")  # as on the GPUs that it is a plan for
    found = trl_config(config, tmp_path)
    assert (planned.pop("report_to"), planned.pop("save_strategy")) == ("none", found.save_strategy.value)
    assert planned == {key: str(getattr(found, key)) for key in planned}
