"""The generated blocks of the Markdown pages: written from the registry and from committed results, never by hand.

    python -m docs.tools.readme          # rewrite the blocks in place (make docs)

A block stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test fails when a page lags behind its sources.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from docs.tools.features import features_table
from docs.tools.targets import ON_GPU, measured, sampling_rows, targets
from experiments.benchmarks.boards import COLUMNS as COSTS
from experiments.benchmarks.common import table
from experiments.benchmarks.corrections import METHODS as METHODS_MEASURED
from experiments.study.page import part_tables, parts_in_short, study_table
from minicppo.rl.boards import NAMES
from minicppo.rules import METHODS, get_method

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "results"
PAGES = ["README.md", "REPRODUCTION.md", "experiments/benchmarks/README.md", "theory/steps.md"]
PAGES += [f"docs/{name}.md" for name in ("corrections", "demo-llm", "drop-in", "methods", "scale", "watch")]
_BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def methods_table() -> str:
    """One line a token weight: what it needs, the paper, and the names of its variants."""
    lines = ["| family | token weight g | decides by | source | names |", "|---|---|---|---|---|"]
    families: dict[tuple[str, str], list[str]] = {}
    for name, spec in METHODS.items():
        families.setdefault((spec.family, spec.formula), []).append(name)
    for (family, _), names in families.items():
        found = get_method(names[0])
        listed = ", ".join(f"`{name}`" for name in names)
        formula = found.formula.replace("|", r"\|")  # else it ends the table's cell
        lines.append(f"| {family} | `{formula}` | {found.level} | {found.source} | {listed} |")
    return "\n".join(lines)


def mask_benchmark() -> str:
    """The committed measurement of the mask beside the per-sequence loop and a plain copy."""
    result = measured("mask")
    columns = {"responses x tokens": "{rows} x {width:,}", "per-sequence loop": "{loop_ms:.0f} ms"}
    columns |= {"`cppo_mask`": "{batched_ms:.0f} ms", "times faster": "{ratio:.1f}", "packed": "{packed_ms:.0f} ms"}
    columns["times a plain copy"] = "{copies:.0f}"
    return f"{table(result['rows'], columns)}\n\n{_source(result)[:1].upper()}{_source(result)[1:]}."


def speed() -> str:
    """The committed measurements of sampling, scoring and whole iterations on a CPU, each beside its peer."""
    scoring, whole = measured("scoring"), measured("end_to_end")
    (tokens,) = {row["tokens"] for row in scoring["rows"] if row["part"] == "head" and row["vocabulary"] > 100_000}
    notes = [
        f"{name}: {_source(result)}"
        for name, result in (("Sampling", measured("sampling")), ("scoring", scoring), ("rollout and update", whole))
    ]
    notes.append("of the limit: useful matrix products beside the machine's speed at large ones, in the same process")
    notes.append(f"scoring is timed on {tokens} tokens at V = 151,936, its memory counted at 8,192")
    return "\n".join([*_speed(sampling_rows(), scoring["rows"], whole["rows"]), "", "; ".join(notes) + "."])


def speed_gpu() -> str:
    """The same on a GPU, and the mask."""
    results = [measured(f"{name}{ON_GPU}") for name in ("sampling", "scoring", "end_to_end", "mask")]
    sampling, scoring, whole, mask = (result["rows"] for result in results)
    lines = _speed(sampling, scoring, whole)
    for row in mask:
        lines.append(
            f"| mask, {row['rows']} x {row['width']:,} | {row['batched_ms']:.2f} ms "
            f"| the loop: {row['loop_ms']:.0f} ms | {row['ratio']:.0f} | {_share(1 / row['copies'])} |"
        )
    machine = results[0]["machine"]
    return "\n".join([*lines, "", f"On one {machine['device']}, torch {machine['torch']}, the median of 7 (mask: 15)."])


def _speed(sampling: list[dict[str, Any]], scoring: list[dict[str, Any]], whole: list[dict[str, Any]]) -> list[str]:
    lines = ["| path | minicppo | beside | times faster | of the limit |", "|---|---|---|---|---|"]
    for row in sampling:
        lines.append(
            f"| sampling, {row['size']} parameters, {row['rows']} rows x {row['cap']} tokens, {row['lengths']} lengths "
            f"| {row['ours_tokens_per_s']:,.0f} tokens/s "
            f"| `generate`: {row['generate_tokens_per_s']:,.0f} tokens/s | {row['times_generate']:.1f} "
            f"| {_share(row.get('of_machine'))} |"
        )
    for row in scoring:
        if row["part"] == "head":
            plain, tiles = (f"{row['seconds'][k]:.3g} s, {row['peak_mb'][k]:,.0f} MB" for k in ("plain", "tiles"))
            lines.append(
                f"| scoring, forward and backward, V = {row['vocabulary']:,}, d = {row['width']:,} | {tiles} "
                f"| logits and `log_softmax`: {plain} | {1 / row['time_ratio']:.1f}, "
                f"memory 1/{1 / row['memory_ratio']:.0f} | {_share(row['useful_gflops'] / row['products_gflops'])} |"
            )
    for row in whole:
        if row["kind"] == "peers":
            lines.append(
                f"| rollout and update, {row['parameters']} parameters, {row['lengths']} lengths "
                f"| {row['ours_per_s']:,.0f} tokens/s | TRL: {row['trl_per_s']:,.0f} tokens/s | {row['ratio']:.1f} "
                f"| {_share(row.get('of_machine'))} |"
            )
    return lines


def _share(value: float | None) -> str:
    """Of the machine's speed at large products (at copies, for the mask), where it was measured in the same process."""
    return "-" if value is None else f"{value:.0%}"


def scale() -> str:
    """Our own trainer at Qwen3's sizes on a GPU."""
    result = measured(f"scale{ON_GPU}")
    columns = {"policy": "{size}", "rollout": "{rollout_tokens_per_s:,.0f} tokens/s"}
    columns |= {"update": "{update_tokens_per_s:,.0f} tokens/s", "peak memory": "{peak_gb:.0f} GB"}
    shape = "{responses} responses of {width} tokens".format(**result["rows"][0])
    return f"{table(result['rows'], columns)}\n\n{shape} on one {result['machine']['device']}."


def _source(result: dict[str, Any]) -> str:
    """How and where it was measured."""
    machine = result["machine"]
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    clock = ", processor time" if result.get("clock") == "process_time" else ""
    return (
        f"median of {result['repeats']} in turns{clock}, {threads} of {machine['processor']}, torch {machine['torch']}"
    )


def readings() -> str:
    """The committed comparison of readings of the paper, from `python -m experiments.benchmarks.readings`."""
    result = measured("readings")
    columns = {"key": "`{key}`", "first reading": "{first}", "second reading": "{second}"}
    columns |= {"masked, first": "{masked_first:.2%}", "second": "{masked_second:.2%}"}
    columns |= {"verdicts that differ": "{verdicts_differ:.2%}", "gradient turns": "{gradient_turns_degrees:.1f}°"}
    lines = table([{"key": key, **row} for key, row in result["rows"].items()], columns)
    again = "`python -m experiments.benchmarks.readings` measures again"
    return f"{lines}\n\n{result['updates']} updates, seed {result['seed']}; {again}."


def corrections() -> str:
    """The committed runs of `python -m experiments.benchmarks.corrections`: means with their standard errors."""
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for key, row in measured("corrections").items():
        setting, method, _ = key.split("/")
        runs.setdefault(setting, {}).setdefault(method, []).append(row)
    tables = []
    for setting, title in (("mismatch", "Mismatch-heavy"), ("drift", "Drift-heavy")):
        lines = [f"| {title} run | gain in accuracy | worse than before | mismatch | drift | masked | seeds |"]
        lines.append("|---|---|---|---|---|---|---|")
        for method in METHODS_MEASURED:
            if rows := runs.get(setting, {}).get(method):
                keys = ("mismatch/mean", "drift/mean", "mask/frac")
                mismatch, drift, masked = (statistics.fmean(row[key] for row in rows) for key in keys)
                gains = [row["after"] - row["before"] for row in rows]
                lines.append(
                    f"| {method} | {_mean(gains, 3, '+')} | {sum(gain < 0 for gain in gains)} "
                    f"| {mismatch:.4f} | {drift:.4f} | {masked:.1%} | {len(rows)} |"
                )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def engines() -> str:
    """The committed runs of `python -m experiments.benchmarks.engines`: means with their standard errors."""
    pairs: list[Any] = list(measured("engines").values())
    rows = {f"`{engine}`": [pair[engine] for pair in pairs] for engine in ("local", "trl")}
    gaps = [{name: pair["trl"][name] - value for name, value in pair["local"].items()} for pair in pairs]
    lines = ["| engine | updates of a run | drift | masked (%) | reward |", "|---|---|---|---|---|"]
    for engine, of in [*rows.items(), ("the second less the first, in a pair", gaps)]:
        drift, masked, reward = ([row[name] for row in of] for name in ("drift", "masked", "reward"))
        lines.append(
            f"| {engine} | {', '.join(sorted({str(row['updates']) for row in of}))} | {_mean(drift, 5)} "
            f"| {_mean([100 * share for share in masked], 3)} | {_mean(reward, 3)} |"
        )
    same = sorted(pair["together"] for pair in pairs)
    return "\n".join([*lines, "", f"{len(pairs)} pairs, whose first {same[0]} to {same[-1]} updates are the same."])


def _mean(values: list[float], places: int, sign: str = "") -> str:
    """With its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):{sign}.{places}f} ± {error:.{places}f}"


# what verl calls a curve, and what is to be known where the same name is not quite the same
CURVES = {
    "rollout/reward": ("critic/rewards/mean", ""),
    "rollout/length": ("response_length/mean", ""),
    "update/loss": ("actor/pg_loss", ""),
    "update/grad_norm": ("actor/grad_norm", ""),
    "update/lr": ("actor/lr", ""),
    "update/entropy": ("actor/entropy", ""),
    "update/kl/k3": ("actor/ppo_kl", "of mu and pi by k3; verl's is k1 of pi_old and pi, TRL's of a reference model"),
    "update/mask/frac": ("actor/pg_clipfrac", "the share that the rule masks, whether it clips or not"),
}


def curves() -> str:
    """Our keys beside the names that boards show, and verl's."""
    lines = ["| in metrics.jsonl | on a board, as in TRL | in verl | |", "|---|---|---|---|"]
    lines += [f"| `{key}` | `{name}` | `{CURVES[key][0]}` | {CURVES[key][1]} |" for key, name in NAMES.items()]
    return "\n".join(lines)


def boards() -> str:
    """What each board costs an iteration."""
    result = measured("boards")
    told = "An iteration of `learn`, the last of each run with an evaluation, in pairs of runs: `python -m"
    return f"{table(result['rows'], COSTS)}\n\n{told} experiments.benchmarks.boards`; {_source(result)}."


BLOCKS: dict[str, Callable[[], str]] = {
    "study": partial(study_table, STUDY),
    "schedules": partial(parts_in_short, STUDY, [f"schedule-{tokens}" for tokens in (51, 147, 387)]),
    "study-llm": partial(part_tables, STUDY / "llm", "pressure"),
    "methods": methods_table,
    "mask-benchmark": mask_benchmark,
    "speed": speed,
    "speed-gpu": speed_gpu,
    "scale": scale,
    "targets": targets,
    "readings": readings,
    "trl-features": features_table,
    "corrections": corrections,
    "engines": engines,
    "curves": curves,
    "boards": boards,
}


def filled(text: str) -> str:
    """The page with every block written anew."""
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for page in PAGES:
        path = ROOT / page
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
