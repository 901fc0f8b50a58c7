"""The keys of a configuration, and what an unknown one is taken for."""

from minicppo.rl.config import RunConfig
from minicppo.rl.keys import foreign_names, keys, meant

KNOWN = {key.name for key in keys(RunConfig)}


def test_every_key_says_what_it_is():
    assert len(KNOWN) > 60
    for key in keys(RunConfig):
        assert "" not in (key.text, key.type), key
    limits = {key.name: key.limits for key in keys(RunConfig)}
    assert (limits["train.lr"], limits["eval.top_p"]) == ("> 0", "> 0, <= 1")


def test_foreign_names_mean_keys_that_exist():
    ours, absent = foreign_names()
    assert len(ours) > 150
    assert not ours.keys() & absent.keys()
    for meaning in ours.values():
        key = meaning.partition(" ")[0]
        assert key in KNOWN or key.startswith(("task.options.", "method.params.")), key


def test_a_foreign_name_is_answered_with_ours():
    ours, absent = foreign_names()
    for name, answer in ({name: f"here it is {key}" for name, key in ours.items()} | absent).items():
        assert meant(RunConfig, name, 1) == [f"unknown key {name!r}: {answer}"]
