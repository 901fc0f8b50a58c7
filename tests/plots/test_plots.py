"""Figures and tables from synthetic run directories: what they compute, and that each can be drawn and saved."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from safetensors.numpy import load_file, save_file

from minicppo.bounds.design import design_table
from minicppo.plots.curves import REASONS, curves, masked_share
from minicppo.plots.drift import by_position, drift_by_position
from minicppo.plots.frontier import draw_frontier
from minicppo.plots.report import write_report
from minicppo.plots.response import LOOKS, MASKED, choose_response, choose_window, one_response
from minicppo.plots.results import COLUMNS, markdown, result, result_rows, results, setting_rows
from minicppo.plots.runs import Run, Trace, labels, load_run
from minicppo.plots.style import line_styles, save
from minicppo.rules import Reason
from tests.fake_runs import W_MIN, write_run

MATHTEXT = ["$$", "$", r"\$", r"Compute $\dbinom{5}{1}$.", r"$\begin{pmatrix}1\end{pmatrix}$", "a$b_{$", "\ud800"]
METHODS = ("cppo-exact", "dppo-exact", "grpo", "none")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [load_run(write_run(root / m, m, final=0.9 - 0.2 * i, seed=i)) for i, m in enumerate(METHODS)]


@pytest.fixture
def trace(runs):
    return runs[0].trace


def test_a_result_is_read_off_the_metrics(runs):
    row, (x, masked) = result(runs[0]), runs[0].series("update", "mask/frac")
    assert (row.before, row.before_se, row.iterations, row.peak_memory_mb) == (0.31, 0.02, 12, 511.0)
    evaluated = {r["iteration"]: r["accuracy"] for r in runs[0].rows("eval")}
    assert (row.after, row.seconds) == pytest.approx(((evaluated[8] + evaluated[12]) / 2, 12 * 1.5)), "not one alone"
    assert (row.greedy_before, row.greedy_after) == pytest.approx((0.97, 0.97))
    assert row.masked == pytest.approx(np.mean([update["mask/frac"] for update in runs[0].rows("update")]))
    parts = (row.masked_token_only, row.masked_prefix_only, row.masked_both)
    assert sum(part or 0.0 for part in parts) == pytest.approx(row.masked)
    assert (x[:5].tolist(), len(masked)) == ([0.0, 0.25, 0.5, 0.75, 1.0], 48), "updates are spread over their iteration"


def test_tables_hold_every_run_and_every_column_and_a_dash_for_what_was_not_logged(runs):
    lines = markdown(result_rows(results(runs)), numbers=True).splitlines()
    assert len(lines) == 2 + len(runs)
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}, "no cell may hold a bar of its own"
    assert "31.0 ± 2.0" in lines[2]
    assert {len(row) for row in result_rows(results(runs), short=True)} == {sum(bool(short) for _, short, _ in COLUMNS)}
    bare = Run(runs[3].path, runs[3].config, [r for r in runs[3].metrics if r["kind"] != "update"], [])
    cells = dict(zip(*result_rows([result(bare)]), strict=True))
    assert (cells["masked tokens (%)"], cells["time (s)"]) == ("-", "-")


def test_what_runs_were_told_differently_is_said(runs):
    rows = setting_rows([runs[0], runs[2]])
    assert rows[0] == ["setting", "cppo-exact", "grpo"]
    assert ["method.name", "cppo-exact", "grpo"] in rows
    assert ["method.params.w_min", "0.8", "-"] in rows, "the other method has no such thing"
    assert "name" not in [row[0] for row in rows]
    assert len(setting_rows([runs[0], runs[0]])) == 1, "nothing but the heads"


def test_runs_of_one_method_are_told_apart_and_a_family_lends_its_style_to_no_other(runs, tmp_path):
    again = load_run(write_run(tmp_path / "second", "grpo"))
    assert labels([*runs, again])[2:] == ["grpo (grpo)", "none", "grpo (second)"]
    methods = ["reinforce", "cispo", "minpro", "gspo", "sapo", "drpo", "pdm", "trm-max", "trm-avg", "cppo", "cppo-soft"]
    styles = dict(zip(methods, line_styles(methods), strict=True))
    assert len({(style.color, style.marker) for style in styles.values()}) == len(methods)
    families = {name: line_styles([name])[0] for name in ("cppo", "dppo", "grpo", "ppo", "none")}
    assert styles["cppo"] == families["cppo"]
    others = [style for name, style in styles.items() if name != "cppo"]
    assert not {style.color for style in others} & {style.color for style in families.values()}


def test_the_highest_marker_is_not_cut(runs):
    level = [row | {"drift": 0.2 + 1e-4 * row["iteration"]} for row in runs[0].metrics if row["kind"] != "rollout"]
    ax = curves([Run(runs[0].path, runs[0].config, level, [])]).axes[3]
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 1.04 * ax.get_lines()[0].get_ydata().max()


def test_drift_by_position_equals_a_loop_over_tokens(runs, trace):
    bins = by_position(trace)
    width = round(2 * bins["position"][0] - 1)
    pairs = zip(trace.log_probs[:, :width].flat, trace.rollout_log_probs[:, :width].flat, strict=True)
    first = sorted(abs(np.exp(pi) - np.exp(mu)) for pi, mu in pairs)
    assert bins["mean"][0] == pytest.approx(np.mean(first))
    assert bins["top"][0] == pytest.approx(np.mean(first[-(len(first) // 10) :]), rel=1e-6)
    assert np.all(bins["top"] >= bins["mean"])
    assert bins["weight"][0] == pytest.approx(1, rel=0.02)
    assert np.all(np.diff(bins["weight"][:8]) < 0), "the token test relaxes along the response"
    assert bins["weight"].min() >= W_MIN - 1e-6
    assert "smaller is drawn at the bottom" in drift_by_position(runs).axes[0].get_ylabel()
    poisoned = Trace(runs[0].path)
    poisoned.gap[~poisoned.response_mask] = 1.0
    assert all(np.array_equal(bins[key], by_position(poisoned)[key]) for key in bins), "padding never enters"


def test_pi_old_parts_the_drift_from_the_mismatch(tmp_path):
    file = write_run(tmp_path / "run") / "trace.safetensors"
    arrays = load_file(file)
    save_file({**arrays, "old_log_probs": (arrays["log_probs"] + arrays["rollout_log_probs"]) / 2}, file)
    run = load_run(tmp_path / "run")
    gap, mismatch, drift = (by_position(run.trace, part)["mean"] for part in ("", "mismatch", "drift"))
    assert np.all(np.abs(mismatch + drift - gap) < 1e-6)  # pi_old lies between the two
    names = [text for text in drift_by_position([run]).axes[0].get_legend_handles_labels()[1] if "old" in text]
    assert len(names) == 2


def test_the_chosen_response_and_window_show_masking(trace):
    row = trace.reason[choose_response(trace)]
    most = max(len(set(r[np.isin(r, MASKED)])) for r in trace.reason)
    assert len(set(row[np.isin(row, MASKED)])) == most > 0
    reason = np.full(100, int(Reason.INSIDE))
    reason[[70, 72, 75]] = Reason.PREFIX
    reason[90:] = Reason.PAD
    start, stop = choose_window(reason, 10)
    assert stop - start == 10
    assert start <= 70 < 75 < stop
    assert choose_window(reason[:8], 10) == (0, 8)


def test_a_token_is_shown_letter_by_letter(tmp_path):
    """In the vocabulary of a pretrained model `=` and ` =` are two tokens, and `$` is one."""
    run = load_run(write_run(tmp_path / "run"))
    run.config["method"]["name"] = run.trace.prompts[0] = "a$b_{$"
    run.trace.tokens[0][:10] = [" =", "\n", "", *MATHTEXT]
    run.trace.reason[0, 10:] = Reason.PAD  # so that the window begins there
    figure = one_response(run, row=0)
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[:3] == ["·=", "⏎", "∅"]
    assert not any("$" in text.replace(r"\$", "") for text in (*labels, ax.get_xlabel(), ax.get_title(loc="left")))
    assert save(figure, tmp_path / "response.png").stat().st_size > 1000
    assert run.trace.masks_something
    run.trace.reason[run.trace.reason != Reason.PAD] = Reason.INSIDE
    assert not run.trace.masks_something
    assert one_response(run, row=0).axes[0].get_title(loc="left").endswith("nothing is masked")


@pytest.fixture
def drawn(monkeypatch):
    """The figures of a report by file name, in the place of the files."""
    figures = {}

    def keep(figure, path):
        figures[path.name] = figure
        return path

    monkeypatch.setattr("minicppo.plots.report.save", keep)
    return figures


def test_a_report_has_every_figure_and_their_axes_are_labelled(runs, tmp_path, drawn):
    written = write_report(runs, tmp_path)
    assert [path.name for path in written] == ["report.md", *drawn]
    assert {*drawn} == {"curves.png", "reasons.png", "drift.png", "response.png"}
    assert "Settings that differ" in (tmp_path / "report.md").read_text()
    for figure in drawn.values():
        assert all(ax.get_ylabel() or ax.get_shared_y_axes().get_siblings(ax) for ax in figure.axes)
        assert any(ax.get_xlabel() for ax in figure.axes)
        assert all(ax.get_title(loc="left") for ax in figure.axes)


@pytest.mark.slow
def test_every_figure_can_be_saved(runs, tmp_path):
    assert all(path.stat().st_size > 100 for path in write_report(runs, tmp_path))


def test_the_bands_look_as_their_reasons_everywhere_and_reach_the_masked_share(runs):
    reason_of = {label: reason for _, label, reason in REASONS}
    axes = masked_share(runs).axes
    bars = {str(bar.get_label()): bar.patches[0] for ax in axes for bar in ax.containers}
    assert {"token test alone", "prefix budget alone"} <= set(bars)
    for label, patch in bars.items():
        _, face, edge, hatch = LOOKS[reason_of[label]]
        assert (patch.get_facecolor(), patch.get_edgecolor()) == (to_rgba(face), to_rgba(edge))
        assert patch.get_hatch() == hatch
    tops = [patch.get_y() + patch.get_height() for patch in axes[0].containers[-1].patches]
    _, masked = runs[0].series("update", "mask/frac")
    assert tops == pytest.approx(100 * masked.reshape(-1, 4).mean(1))


def test_what_a_run_lacks_is_left_out_or_named(tmp_path, drawn):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no config\.yaml"):
        load_run(tmp_path)
    folder = write_run(tmp_path / "run")
    (folder / "trace.safetensors").unlink()
    run = load_run(folder)
    write_report([run], tmp_path)
    assert {*drawn} == {"curves.png", "reasons.png"}
    with pytest.raises(ValueError, match=r"no trace\.safetensors"):
        one_response(run)
    with pytest.raises(ValueError, match="none of these runs has a trace"):
        drift_by_position([run])
    log = folder / "metrics.jsonl"
    first, second, *rest = log.read_text().splitlines()
    log.write_text("\n".join([first, second, *rest, '{"kind": "ev']))  # a writer that was killed
    assert len(load_run(folder).metrics) == 2 + len(rest)
    log.write_text("\n".join([first, "garbage", *rest, ""]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl cannot be used: .*mend or remove its line 2"):
        load_run(folder)
    log.write_text("")
    with pytest.raises(FileNotFoundError, match="has logged nothing yet"):
        load_run(folder)
    log.write_text(json.dumps({"kind": "rollout", "iteration": 0}) + "\n")
    with pytest.raises(ValueError, match="no evaluation yet"):
        result(load_run(folder))


def test_the_frontier_shades_what_a_token_may_take_at_once():
    rows = design_table(0.5, horizons=(64, 1024))
    path, chi2 = draw_frontier(rows).axes[0].collections
    assert path.get_paths()[0].vertices[:, 1].max() == pytest.approx(rows[0]["path"].delta)
    assert path.get_paths()[0].vertices[:, 1].min() == pytest.approx(rows[1]["path"].delta_b)
    assert chi2.get_paths()[0].vertices[:, 1].max() == pytest.approx(rows[0]["chi2"].tv * 7.5**0.5)
