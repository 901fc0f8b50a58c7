"""The keys of a configuration, and what an unknown one is taken for."""

import pytest

from minicppo.rl.config import ConfigError, RunConfig, load_config
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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("actor_rollout_ref.actor.optim.lr=1e-6", "here it is train.lr"),
        ("actor_rollout_ref.rollout.n=8", "here it is rollout.group_size"),
        (
            "actor_rollout_ref={model: {path: x}, rollout: {n: 8}}",
            "here it is model.path\n.*here it is rollout.group_size",
        ),
        ("train.learning_rate=1", "here it is train.lr"),
        ("temperature=1", "did you mean 'rollout.temperature' or 'eval.temperature'"),
        ("delta=.1", "here it is method.params.delta"),
        ("method.delta=.1", "here it is method.params.delta"),
        ("rolout.prompts=1", "did you mean 'rollout.prompts'"),
        ("xyzzy=1", "minicppo config lists all"),
    ],
)
def test_an_unknown_key_by_meaning_then_by_its_letters(override, said):
    with pytest.raises(ConfigError, match=f"(?s)unknown key .*{said}"):
        load_config("learn", [override])
