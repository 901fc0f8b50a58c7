"""Every format gives the same rows; what is broken is named; what is packed is read."""

import gzip
import json
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from minicppo.inspect.files import Broken, find
from minicppo.inspect.log import Log
from minicppo.inspect.table import portions, table
from tests.inspect.made import made, records, written

LOG = {name: value[:3] for name, value in made("clean", 6).items() if name != "like"}


def read(*paths, **options):
    log = Log(paths, **options)
    return log, table(list(log.rows()))


def assert_same(found, pi=True):
    assert found.lengths.tolist() == [len(mu) for mu in LOG["mu"]]
    assert found.mu.tolist() == np.concatenate(LOG["mu"]).tolist()
    if pi:
        assert found.pi.tolist() == np.concatenate(LOG["pi"]).tolist()
        assert found.advantages == pytest.approx(np.concatenate(LOG["advantages"]), abs=1e-6)


def assert_it_tells_how_far_it_is(path):
    """Which says how many responses are to be looked at."""
    log = Log([path])
    next(log.rows())
    assert 0 < log.done < log.total


@pytest.mark.parametrize("form", ["neutral", "prime-rl", "nemo-rl"])
def test_formats_of_lines(tmp_path, form):
    log, found = read(written(tmp_path / "train_data_step7.jsonl", records(LOG, form, step=7)))
    assert_same(found)
    assert found.ids.tolist() == np.concatenate(LOG["ids"]).tolist()
    assert (found.steps.tolist(), list(log.formats)) == ([7] * 3, [form])
    assert log.pi == ("old" if form == "nemo-rl" else "current")


def test_packed_files_and_parquet(tmp_path):
    zstandard, parquet = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = records(LOG)
    text = written(tmp_path / "a.jsonl", rows).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(text))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        assert_same(read(tmp_path / name)[1])


def test_slime(tmp_path):
    tensors = {name: [torch.tensor(row) for row in LOG[name]] for name in ("mu", "pi", "advantages")}
    data = {"rollout_log_probs": tensors["mu"], "log_probs": tensors["pi"], "advantages": tensors["advantages"]}
    data["tokens"] = [torch.tensor([5, 6, *row]) for row in LOG["ids"]]
    torch.save({"rollout_id": 4, "rank": 0, "rollout_data": data}, tmp_path / "4.pt")
    log, found = read(tmp_path / "4.pt")
    assert_same(found)
    assert (found.ids.tolist(), found.steps[0]) == (np.concatenate(LOG["ids"]).tolist(), 4)
    assert list(log.formats) == ["slime"]
    assert_it_tells_how_far_it_is(tmp_path / "4.pt")


def test_bfloat16_of_a_dump_and_a_pickle(tmp_path):
    """NumPy has no bfloat16, and a graph may hang on it still."""
    log_probs = [torch.tensor([-0.5, -1.25], dtype=torch.bfloat16, requires_grad=True)]
    torch.save({"rollout_data": {"rollout_log_probs": log_probs}}, tmp_path / "1.pt")
    assert read(tmp_path / "1.pt")[1].mu.tolist() == [-0.5, -1.25]
    torch.save({"rollout_data": written}, tmp_path / "bad.pt")
    with pytest.raises(Broken, match=r"bad.pt cannot be used.*whatever else it holds is not loaded"):
        read(tmp_path / "bad.pt")


def choices(i):
    content = [{"token": f"t{k}", "logprob": float(mu), "top_logprobs": []} for k, mu in enumerate(LOG["mu"][i])]
    return {"choices": [{"logprobs": {"content": content}}]}


def test_responses_of_servers_and_inspect(tmp_path):
    written(tmp_path / "batch.jsonl", [{"response": {"body": choices(i)}} for i in range(3)])
    samples = [{"output": choices(i)} for i in range(3)]
    (tmp_path / "log.json").write_text(json.dumps({"version": 2, "samples": samples}))
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        for i, sample in enumerate(samples):
            archive.writestr(f"samples/{i}.json", json.dumps(sample))
    old = [{"choices": [{"logprobs": {"tokens": ["a"] * len(mu), "token_logprobs": mu.tolist()}}]} for mu in LOG["mu"]]
    written(tmp_path / "old.jsonl", old)
    for name in ("batch.jsonl", "log.json", "log.eval", "old.jsonl"):
        log, found = read(tmp_path / name)
        assert_same(found, pi=False)
        assert (found.pi, log.pi) == (None, "none")
    assert read(tmp_path / "batch.jsonl")[1].texts[:2].tolist() == ["t0", "t1"]


def test_a_run_of_ours(tmp_path):
    width = max(map(len, LOG["mu"]))
    arrays = {name: np.stack([np.pad(row, (0, width - len(row))) for row in LOG[name]]) for name in ("mu", "pi", "ids")}
    mask = np.stack([np.arange(width) < len(row) for row in LOG["mu"]])
    names = {"rollout_log_probs": arrays["mu"], "log_probs": arrays["pi"], "response_ids": arrays["ids"]}
    A = np.array([row[0] for row in LOG["advantages"]])
    save_file({**names, "response_mask": mask, "advantages": A}, tmp_path / "trace.safetensors")
    texts = {"iteration": 9, "prompts": ["p", "p", "q"], "tokens": [[f"w{i}" for i in row] for row in LOG["ids"]]}
    (tmp_path / "trace.json").write_text(json.dumps(texts))
    _, found = read(tmp_path)
    assert_same(found)
    assert (found.steps[0], found.groups.tolist(), found.texts[0]) == (9, [0, 0, 1], f"w{LOG['ids'][0][0]}")
    assert_it_tells_how_far_it_is(tmp_path)


def test_sequences_in_one_line_are_told_apart(tmp_path):
    one = records(LOG, "prime-rl")
    names = [name for name in one[0] if isinstance(one[0][name], list)]
    joined = {name: [value for row in one for value in row[name]] for name in names}
    assert_same(read(written(tmp_path / "packed.jsonl", [joined]))[1])


def test_holes_are_turns_and_a_mask_leaves_out(tmp_path):
    row = {"rollout_log_probs": [-1, -2, -3, -4], "log_probs": [-1, -2, None, -4], "response_mask": [1, 1, 0, 1]}
    _, found = read(written(tmp_path / "a.jsonl", [{**row, "advantages": 2}]))
    assert (found.mu.tolist(), found.turn.tolist()) == ([-1, -2, -4], [0, 0, 1])
    assert found.advantages.tolist() == [2.0] * 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "a JSON object was expected"),
        ('{"rollout_log_probs": "text"}', "rollout_log_probs is no list of numbers"),
        ('{"rollout_log_probs": [[-1]]}', "of shape"),
        ('{"rollout_log_probs": [-1, -2], "log_probs": [-1]}', "log_probs has 1 values for 2 tokens"),
        ('{"rollout_log_probs": [-1], "rewards": {}}', "one number is expected"),
        ('{"inference_logprobs": [-1]}', "there is no loss_mask"),
        ('{"what": 1}', "unknown format"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_broken_line_is_named_or_left_out(tmp_path, line, message):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([json.dumps(records(LOG)[0]), line, json.dumps(records(LOG)[1])]))
    with pytest.raises(Broken, match=rf"log.jsonl, line 2: .*{message}.*--skip-broken"):
        read(path)
    log, found = read(path, skip_broken=True)
    assert (len(found.lengths), log.skipped, len(log.broken)) == (2, 1, 1)


def test_what_json_cannot_say_is_nan(tmp_path):
    _, found = read(written(tmp_path / "a.jsonl", [{"rollout_log_probs": [np.nan, -np.inf, None, -1]}]))
    assert np.isfinite(found.mu).tolist() == [False] * 3 + [True]


def test_a_cut_file_is_named(tmp_path):
    packed = gzip.compress(written(tmp_path / "a.jsonl", records(LOG)).read_bytes())
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(Broken, match=r"b.jsonl.gz, line \d+: cannot be unpacked"):
        read(tmp_path / "b.jsonl.gz")


def test_folders_and_patterns(tmp_path):
    for step in (10, 2):
        (tmp_path / f"step_{step}").mkdir()
        rows = [{key: value for key, value in row.items() if key != "step"} for row in records(LOG)]
        written(tmp_path / f"step_{step}" / "rank_0.jsonl", rows)
    (tmp_path / "settings.json").write_text('{"lr": 1}')
    log, found = read(tmp_path)
    assert found.steps.tolist() == [2] * 3 + [10] * 3
    assert [path.rpartition("/")[2] for path in log.other] == ["settings.json"]
    assert len(find([str(tmp_path / "**" / "*.jsonl")])) == 2
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="is no log that can be read"):
        find([__file__])


def test_portions_make_up_the_log(tmp_path):
    log = Log([written(tmp_path / "a.jsonl", records(LOG) * 5)])
    parts = list(portions(log.rows(), size=200))
    assert len(parts) > 3
    assert np.concatenate([part.mu for part in parts]).tolist() == np.concatenate(LOG["mu"] * 5).tolist()
    assert log.done == log.total
