"""What the recorder costs: steps of TRL's GRPOTrainer, or of our loss for verl, with and without it in turns.

    python -m experiments.benchmarks.recorder [--engine verl] [--ranks 2] [--pairs 12] [--json FILE]

A turn is ten steps; the recorder, at its own defaults, writes as many as its share of the time allows, and its clock
stands still in the turns without it. Times are of the processor, all threads of a process, so that
writing behind the run's back counts and other work on the machine does not; a ratio is the median over pairs of turns.
verl wants its own environment (`make test-verl`), and a step there is a micro-batch, forward and backward.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from experiments.benchmarks.common import RESULTS, machine, parser_of
from minicppo.files import write_atomically
from minicppo.inspect import Recorder
from minicppo.rl.policy import build_policy
from minicppo.rl.sections import ModelConfig
from minicppo.rl.tasks import make_task

TURN = 10  # steps
RESPONSES, TOKENS = 64, 32  # of a step, and of each response
MODEL = ModelConfig(hidden_size=64, intermediate_size=128, layers=2, heads=2)
Turns = dict[str, list[float]]


def in_turns(steps: Callable[[bool], object], pairs: int) -> Turns:
    """Processor seconds of turns, with and without the recorder; the order changes. The first pair does not count."""
    took: Turns = {"with": [], "without": []}
    for pair in range(pairs + 1):
        for recorded in (True, False) if pair % 2 else (False, True):
            start = time.process_time()
            steps(recorded)
            took["with" if recorded else "without"].append(time.process_time() - start)
    return {name: times[1:] for name, times in took.items()}


def trl(folder: Path, pairs: int) -> Turns:
    """Whole steps of a plain `GRPOTrainer`: sampling, reward, update. Responses all have TOKENS tokens."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    task, rng = make_task("chain"), random.Random(0)
    policy = build_policy(MODEL, task, 0)
    settings: dict[str, Any] = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    settings["logging_steps"] = 10**6
    settings |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "learning_rate": 1e-9}
    settings |= {"max_completion_length": TOKENS, "generation_kwargs": {"min_new_tokens": TOKENS}}
    trainer = GRPOTrainer(
        policy.model,
        reward_funcs=lambda completion_ids, **_: [float(sum(ids) % 3) for ids in completion_ids],
        args=GRPOConfig(
            str(folder / "run"), num_generations=8, per_device_train_batch_size=RESPONSES, max_steps=10**6, **settings
        ),
        train_dataset=Dataset.from_dict({"prompt": [task.problem(rng).prompt for _ in range(16)]}),
        processing_class=policy.tokenizer,
    )
    names = ("_compute_loss", "_get_per_token_logps_and_entropies")
    plain = {name: getattr(trainer, name) for name in names}
    recorder = Recorder(folder / "log").attach(trainer)
    recorded = {name: getattr(trainer, name) for name in names}
    took: Turns = {"with": [], "without": []}

    class Turn(TrainerCallback):
        """Takes the recorder off and on again between turns."""

        start, since, now = 0.0, 0.0, ""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % TURN:
                return
            recorder.close()
            turn, now = state.global_step // TURN, time.monotonic()
            if self.now:
                took[self.now].append(time.process_time() - self.start)
            if self.now == "without":
                recorder.ready += now - self.since
            self.since = now
            self.now = "with" if (turn + turn // 2) % 2 else "without"  # the order changes from pair to pair
            for name, method in (recorded if self.now == "with" else plain).items():
                setattr(trainer, name, method)
            control.should_training_stop = turn == 2 * (pairs + 1)
            self.start = time.process_time()

    trainer.add_callback(Turn())
    trainer.train()
    return {name: times[1 : pairs + 1] for name, times in took.items()}


def verl(folder: Path, pairs: int) -> Turns:
    """Micro-batches with our loss for verl, forward and backward; verl's own engine would only add to a step."""
    from minicppo.engines.verl_loss import CPPOPolicyLossConfig, method_loss, recorder

    model, generator = build_policy(MODEL, make_task("chain"), 0).model, torch.Generator().manual_seed(0)
    ids = torch.randint(2, 12, (RESPONSES, 6 + TOKENS), generator=generator)
    given: dict[str, Any] = {
        "old_log_prob": torch.full((RESPONSES, TOKENS), -2.5),
        "loss_agg_mode": "seq-mean-token-sum-norm",
    }
    given |= {"response_mask": torch.ones(RESPONSES, TOKENS, dtype=torch.bool)}
    given |= {"advantages": torch.randn(RESPONSES, 1, generator=generator).expand(RESPONSES, TOKENS)}
    record = {"folder": str(folder / "log")}
    losses = {True: CPPOPolicyLossConfig(record=record), False: CPPOPolicyLossConfig()}

    def steps(recorded: bool) -> None:
        config: Any = SimpleNamespace(global_batch_info={}, loss_scale_factor=TOKENS, policy_loss=losses[recorded])
        start = time.monotonic()
        for _ in range(TURN):
            log_probs = model(input_ids=ids).logits[:, 5:-1].log_softmax(-1)
            taken = log_probs.gather(-1, ids[:, 6:, None])[..., 0]
            method_loss("cppo", log_prob=taken, config=config, **given)[0].backward()
        kept = recorder(**record)
        kept.close()
        kept.ready += 0 if recorded else time.monotonic() - start

    return in_turns(steps, pairs)


def work(engine: str, folder: Path, pairs: int) -> None:
    """One rank: its times, and how much was recorded, as a file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    took = (trl if engine == "trl" else verl)(folder, pairs)
    rank = os.environ.get("RANK", "0")
    files = len(list((folder / "log").glob(f"*-rank_{rank}.parquet")))
    (folder / f"{rank}.json").write_text(json.dumps({**took, "files": files}), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def measure(engine: str, ranks: int, pairs: int) -> dict[str, Any]:
    """Ratios of pairs over all ranks: their median, the lowest and the highest."""
    with tempfile.TemporaryDirectory() as scratch:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m", __spec__.name]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        given = ["--engine", engine, "--pairs", str(pairs), "--work", scratch]
        subprocess.run([sys.executable, "-W", "ignore", *launch, *given], env=environment, check=True)
        found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(scratch).glob("*.json"))]
    ratios = sorted(a / b for each in found for a, b in zip(each["with"], each["without"], strict=True))
    step = statistics.median(value for each in found for value in each["without"]) / TURN
    row = {"engine": engine, "ranks": ranks, "pairs": len(ratios), "step_ms": round(1e3 * step, 2)}
    row |= {"files": sum(each["files"] for each in found), "ratio": round(statistics.median(ratios), 4)}
    return row | {"low": round(ratios[0], 4), "high": round(ratios[-1], 4)}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--engine", choices=("trl", "verl"), default="trl")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument(
        "--json", type=Path, default=RESULTS / "recorder.json", help="keeps a row of each engine and ranks"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.engine, given.work, given.pairs)
        return
    found = json.loads(given.json.read_text(encoding="utf-8")) if given.json.is_file() else {}
    row = measure(given.engine, given.ranks, given.pairs)
    found[f"{given.engine}/{given.ranks}"] = {**row, "machine": machine()}
    write_atomically(given.json, f"{json.dumps(found, indent=1, sort_keys=True)}\n".encode())
    print(row)


if __name__ == "__main__":
    main()
