"""`minicppo config`, `tasks` and `presets`."""

import json

from minicppo.rl.config import preset_names
from minicppo.rl.tasks import TASKS


def test_config_prints_every_key_or_a_section(minicppo):
    every = json.loads(minicppo("config", "--json").done())
    some = json.loads(minicppo("config", "train", "--json").done())
    assert some == [key for key in every if key["name"].startswith("train.")]
    assert len(some) > 10
    assert "train.minibatch_prompts" in minicppo("config", "train").done(), "no word is broken"
    shown = minicppo("config").done()
    assert "method.params.w_min=0.8            of cppo [number, > 0, <= 1, paper Table 3]" in shown
    assert "list of files | tensorboard | wandb | trackio | mlflow" in shown
    assert all(key["source"] and key["text"] for key in every)
    assert {key["name"] for key in json.loads(minicppo("config", "method", "--json").out)} > {"method.params.delta"}
    assert "did you mean 'train'" in minicppo("config", "trian").refused()


def test_tasks_and_presets_are_all_there(minicppo):
    tasks = {task["name"]: task for task in json.loads(minicppo("tasks", "--json").done())}
    assert set(tasks) == set(TASKS)
    assert tasks["addition"]["options"]["high"] == 19
    assert all(task["text"] for task in tasks.values())
    assert [preset["name"] for preset in json.loads(minicppo("presets", "--json").done())] == preset_names()
    for command in ("tasks", "presets"):
        assert "addition" in minicppo(command).done()
