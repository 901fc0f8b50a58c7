"""docs/drop-in.md keeps its word: its snippets run, its overrides compose, its links and names exist."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "drop-in.md").read_text(encoding="utf-8")
SECTIONS = {part.splitlines()[0]: part for part in TEXT.split("\n## ")[1:]}


def snippet(section: str, language: str = "python") -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.M | re.S)
    return found


def run(section: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "drop_in"}
    exec(compile(snippet(section), f"docs/drop-in.md, {section}", "exec"), names)
    return names


def test_a_plain_loop_learns_with_an_active_mask():
    from minicppo.rules import diagnostics

    names = run("A loop of your own")
    assert names["rewards"].mean() > 0.5  # 0.2 at the start
    assert 0.02 < diagnostics(names["batch"], names["out"])["mask/frac"] < 0.9


@pytest.mark.slow
def test_trl(tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")
    monkeypatch.chdir(tmp_path)
    names = run("TRL")
    assert names["rewards"][-1] > 0.2 > names["rewards"][0]
    rows = [row for row in names["trainer"].state.log_history if "mask/frac" in row]
    assert any(row["mask/frac"] > 0 for row in rows)
    assert any("mismatch/drift" in row for row in rows)


@pytest.mark.slow
def test_a_trainer_of_ones_own(tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="it is made from TRL's (pip install -e '.[trl]')")
    monkeypatch.chdir(tmp_path)
    trainer = run("A GRPOTrainer of your own")["trainer"]
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert rewards[-1] > 0.15 > rewards[0]
    assert len(trainer.masked) == 36
    assert 0 < max(trainer.masked) < 0.9


def test_verl():
    with warnings.catch_warnings():  # of verl's own imports
        warnings.simplefilter("ignore")
        pytest.importorskip("verl", reason="verl is not installed: pip install -c constraints-verl.txt -e '.[verl]'")
        from verl.utils.config import omega_conf_to_dataclass

        from minicppo.engines.verl_loss import CPPOPolicyLossConfig
        from tests.engines.verl_setup import composed
    overrides = snippet("verl", "text").splitlines()
    settings = composed([*overrides, "actor_rollout_ref.actor.strategy=fsdp2"])
    loss = omega_conf_to_dataclass(settings.actor_rollout_ref.actor.policy_loss)
    assert isinstance(loss, CPPOPolicyLossConfig)
    assert (loss.loss_mode, dict(loss.params)) == ("cppo", {"delta": 0.15, "delta_b": 0.02})
    assert settings.algorithm.rollout_correction.bypass_mode
    assert settings.trainer.use_v1
