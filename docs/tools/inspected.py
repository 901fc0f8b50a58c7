"""The three readings of docs/inspect.md, from training to text in one command.

    python -m docs.tools.inspected          # a few minutes on one core; runs that are there are kept

Two runs of the preset `misled`, with CPPO and, harsher, without a mask; and responses that the first of them samples in
bfloat16 and scores in float32.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from minicppo.cli.console import Terminal, table
from minicppo.inspect import inspect
from minicppo.inspect.sections import sections
from minicppo.rl.config import load_config
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.run_dir import RunDir
from minicppo.rl.trainer import roll_out, train_or_resume, trained_policy

ROOT = Path(__file__).parents[2]
PAGE, RUNS = ROOT / "docs" / "inspect.md", ROOT / "runs" / "inspected"
HARSH = ("train.iterations=24", "train.epochs=4", "train.lr=1e-3")
QUOTED = ("Is the log right?", "Mismatch and drift", "pi against mu", "By position", "By sign", "What", "Early")


def run(method: str, *settings: str) -> Path:
    config = load_config("misled", [f"method={method}", f"name={method}", *settings])
    return train_or_resume(config, RUNS / method)


@torch.no_grad()
def bfloat16_rollouts(run: Path) -> Path:
    """Responses of a run's last policy in the neutral format: mu by bfloat16, pi and pi_old by float32, no update."""
    config, policy = RunDir.open(run).config(), trained_policy(run)
    task, sampler = config.make_task(), dataclasses.replace(policy, autocast=torch.bfloat16)
    rollout = roll_out(sampler, task, config, 0, "log_probs")
    pi = response_log_probs(policy, rollout, config.rollout.temperature).log_probs
    lines = []
    for i, valid in enumerate(rollout.response_mask):
        ids = rollout.response_ids[i][valid].tolist()
        row: dict[str, Any] = {"response_ids": ids, "tokens": [policy.decode([each]) for each in ids]}
        row |= {"rollout_log_probs": rollout.log_probs[i][valid].tolist(), "log_probs": pi[i][valid].tolist()}
        row |= {"old_log_probs": row["log_probs"], "advantages": float(rollout.advantages[i])}
        row |= {"rewards": float(rollout.rewards[i]), "group": i // config.rollout.group_size}
        lines.append(json.dumps(row))
    path = RUNS / "bfloat16.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reading(log: Path) -> str:
    """The sections that a reading begins with, as the terminal shows them."""
    console: Console = Terminal(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for section in sections(inspect([log]).report):
        if section.title.startswith(QUOTED) and not section.title.startswith("What other"):
            if section.rows:
                console.print(table(section.heads, section.rows, section.title, words=section.words))
            elif section.notes:
                console.print(section.title)
            console.print(*(f"  {note}" for note in section.notes), sep="\n")
            console.print()
    lines = (line.rstrip() for line in console.export_text().splitlines())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
    return f"```text\n$ minicppo inspect {log.relative_to(ROOT)}\n\n{text}\n```\n"


def main() -> None:
    healthy, collapsed = run("cppo"), run("none", *HARSH)
    page = PAGE.read_text(encoding="utf-8")
    for name, log in {"healthy": healthy, "collapse": collapsed, "mismatch": bfloat16_rollouts(healthy)}.items():
        before, mark, rest = page.partition(f"<!-- reading: {name} -->\n")
        page = before + mark + reading(log) + rest[rest.index("<!-- end -->") :]
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
