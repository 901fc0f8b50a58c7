"""When a step is made plainly, recorded, or replayed: with a stand-in for CUDA's graphs, which no CPU has."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from minicppo.rl import cuda_graph as replay
from minicppo.rl.cuda_graph import Replay


@pytest.fixture
def recorded(monkeypatch):
    """What was recorded."""
    names = []

    def record(step):
        names.append("recorded")
        return SimpleNamespace(replay=step)

    monkeypatch.setattr(replay, "_record", record)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(Replay, "ready", False)
    return names


def test_every_step_is_made_once_and_a_key_recorded_once(recorded):
    make, made = Replay(torch.device("cuda")), []
    for t, key in enumerate("aaabbb"):
        make(key, lambda t=t: made.append(t))
    assert made == [0, 1, 1, 3, 3, 3], "the graph makes the step that it was recorded with"
    assert len(recorded) == 2


def test_what_is_forgotten_is_recorded_again(recorded):
    make, made = Replay(torch.device("cuda")), []
    for t in range(4):
        make("a", lambda t=t: made.append(t))
    make.forget()
    make("a", lambda: made.append(9))
    assert made == [0, 1, 1, 1, 9]
    assert len(recorded) == 2


def test_the_first_step_is_plain_once_a_process_and_always_under_autocast(recorded, monkeypatch):
    for autocast, recordings in ((False, 0), (False, 1), (True, 0), (True, 0)):
        recorded.clear()
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device, on=autocast: on)
        Replay(torch.device("cuda"))("a", lambda: None)
        assert len(recorded) == recordings
