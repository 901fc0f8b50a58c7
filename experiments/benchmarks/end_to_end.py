"""Rollout + update beside TRL's GRPOTrainer, and what a step costs as responses and vocabularies grow.

    python -m experiments.benchmarks.end_to_end [--device cpu|cuda] [--threads 1] [--repeats 7] [--json FILE] [--small]

`peers`: the same policy, problems, reward, group size and minibatches in our trainer and in plain `GRPOTrainer` of TRL
1.16 (`transformers` generation, float32, loss dr_grpo), turn by turn. One turn is a rollout of 128 responses and the
four updates made with it. TRL's updates are called without its Trainer's loop around them, which only favours TRL. In
`equal` the policy has learned the format of its task, 51 tokens each; in `spread` it has learned nothing and ends at
any token, most before the 20th. The reward is a coin that each response decides, so that no group is dropped. Before
the clock starts, both must give the same log-probs for the same responses.
`growth`: one rollout and one update of eight responses as the response grows from 128 to 4,096 tokens (vocabulary 15),
and as the vocabulary grows from 1k to 152k (128 tokens, Top-K CPPO). Peak memory is what a step adds to the process.
"""

import ctypes
import dataclasses
import gc
import itertools
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.common import Products, options, products_of, qwen3, seconds, store, synchronize, table
from minicppo.rl.checkpoint import TrainState
from minicppo.rl.config import RunConfig, validate
from minicppo.rl.log_probs import response_log_probs
from minicppo.rl.policy import Policy, character_tokenizer
from minicppo.rl.rollout import Needs, Rollout
from minicppo.rl.sampling import sample
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, sample_problems
from minicppo.rl.tasks.chain import ChainTask
from minicppo.rl.trainer import minibatches, roll_out, rollout_row, starting_policy
from minicppo.rl.update import update
from minicppo.rules import get_method, policy_loss

SIZES = {
    "0.1M": {"hidden_size": 64, "intermediate_size": 128, "layers": 2},
    "1M": {"hidden_size": 128, "intermediate_size": 512, "layers": 4},
}
LENGTHS, VOCABULARIES = (128, 256, 512, 1024, 2048, 4096), (1_000, 4_000, 16_000, 64_000, 152_000)
ROWS, PROMPT = 8, 16


class Coin(ChainTask):
    """Chained arithmetic with a reward that varies within every group, whatever the policy has learned."""

    def score(self, problem: Problem, response: str) -> float:
        return float(sum(map(ord, response)) % 2)


def settings(size: str, lengths: str, device: str, small: bool) -> RunConfig:
    steps = 2 if small else 60
    warmup = {"target": 0.0, "check_every": steps, "max_steps": steps, "anneal": 0, "batch": 16, "lr": 1e-2}
    return validate(
        {
            "device": device,
            "threads": torch.get_num_threads(),
            "model": SIZES[size],
            "task": {"name": "chain", "options": {"steps": 1 if small else 8}},
            "method": "cppo",
            "rollout": {"prompts": 4 if small else 16, "group_size": 8},
            "train": {"minibatches": 2 if small else 4, "lr": 1e-6, "autocast": "off"},
            "warmup": None if lengths == "spread" else warmup,
        }
    )


class Ours:
    """Turns of our own trainer."""

    def __init__(self, config: RunConfig, folder: Path):
        self.config, self.task, self.method = config, Coin(**config.task.options), config.make_method()
        self.state = TrainState.begin(config, starting_policy(config))
        self.tokens: list[int] = []

    def roll_out(self, purpose: str = "rollout") -> Rollout:
        policy, iteration = self.state.sampling_policy(), self.state.iteration
        return roll_out(policy, self.task, self.config, iteration, self.method.needs, purpose)

    def turn(self) -> None:
        rollout = self.roll_out()
        rollout_row(self.state, rollout, self.config)
        for minibatch in minibatches(rollout, self.config, self.state.iteration):
            update(self.state, self.method, minibatch, self.config)
        self.state.iteration += 1
        self.tokens.append(int(rollout.response_mask.sum()))


class Theirs:
    """Turns of TRL's trainer."""

    def __init__(self, config: RunConfig, folder: Path):
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        self.policy, self.config = starting_policy(config), config
        task, rollout, train = Coin(**config.task.options), config.rollout, config.train
        self.rows = rollout.prompts * rollout.group_size
        self.tokens: list[int] = []

        def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
            self.tokens.append(sum(map(len, completion_ids)))
            return [task.score(Problem("", "", {}), self.policy.decode(ids)) for ids in completion_ids]

        self.trainer = GRPOTrainer(
            self.policy.model,
            reward_funcs=reward,
            args=GRPOConfig(
                str(folder),
                loss_type="dr_grpo",
                scale_rewards="none",
                num_generations=rollout.group_size,
                per_device_train_batch_size=self.rows // train.minibatches,
                steps_per_generation=train.minibatches,
                max_completion_length=config.max_new_tokens(task),
                learning_rate=train.lr,
                max_steps=1,
                bf16=False,
                gradient_checkpointing=False,
                use_cpu=config.resolved_device().type == "cpu",
                report_to="none",
            ),
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=self.policy.tokenizer,
        )
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        self.optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=train.lr, fused=True)
        self.turns = 0

    def turn(self) -> None:
        count, size = self.config.rollout.prompts, self.config.rollout.group_size
        rng = rng_for(self.config.seed, "rollout-problems", self.turns)
        problems = sample_problems(self.config.make_task(), count, rng, "train")
        inputs = [{"prompt": problem.prompt} for problem in problems for _ in range(size)]
        for _ in range(self.config.train.minibatches):
            self.trainer.training_step(self.trainer.model, inputs, None)
            torch.nn.utils.clip_grad_norm_(self.policy.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.turns += 1


def peers(device: str, repeats: int, small: bool, clock: Callable[[], float]) -> Iterator[dict[str, Any]]:
    for size, lengths in itertools.product(SIZES, ("equal", "spread")):
        config = settings(size, lengths, device, small)
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = Ours(config, Path(folder) / "ours"), Theirs(config, Path(folder) / "theirs")
            require_same_log_probs(ours, theirs)
            products = Products(device)
            turns: dict[str, Callable[[], object]] = {"ours": ours.turn, "trl": theirs.turn, "products": products}
            times = seconds(turns, repeats, f"{size}, {lengths} lengths", clock=clock)
        row: dict[str, Any] = {
            "kind": "peers",
            "parameters": size,
            "lengths": lengths,
            "responses": theirs.rows,
            "tokens": statistics.mean(ours.tokens) / theirs.rows,
            "trl_tokens": statistics.mean(theirs.tokens) / theirs.rows,
            "ours_per_s": statistics.mean(ours.tokens) / times["ours"],
            "trl_per_s": statistics.mean(theirs.tokens) / times["trl"],
        }
        # a token is sampled once, and passes forward, and backward at twice the cost, in its update
        gigaflop = 4 * 2e-9 * products_of(ours.state.policy.model) * statistics.mean(ours.tokens)
        row |= products.share(gigaflop, times["ours"], times["products"])
        yield {**row, "ratio": row["ours_per_s"] / row["trl_per_s"]}


def require_same_log_probs(ours: Ours, theirs: Theirs) -> None:
    """Both trainers must see the same policy: the same log-probs of the same responses."""
    rollout = ours.roll_out("check")
    ids = torch.cat([rollout.prompt_ids, rollout.response_ids], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.response_mask], 1).long()
    with torch.no_grad():
        found, *_ = theirs.trainer._get_per_token_logps_and_entropies(
            theirs.policy.model, ids, mask, rollout.response_ids.shape[1]
        )
    torch.testing.assert_close(
        found[rollout.response_mask], rollout.log_probs[rollout.response_mask], rtol=1e-3, atol=1e-4
    )


class Endless(Policy):
    """A policy whose responses end at the cap alone."""

    @property
    def ends(self) -> tuple[int, ...]:
        return ()


def toy(vocabulary: int, device: str) -> Endless:
    """One small layer, so that what grows is seen."""
    model = qwen3((vocabulary, 64, 128, 1, 2, 2, 32), max_position_embeddings=8192, tie_word_embeddings=True)
    return Endless(model.to(device), character_tokenizer("0123456789+*= "), whole_vocabulary=True)


def growth(device: str, repeats: int, small: bool) -> Iterator[dict[str, Any]]:
    lengths, vocabularies = (LENGTHS[:2], VOCABULARIES[:2]) if small else (LENGTHS, VOCABULARIES)
    points = [("T", T, T, 15, "cppo", "log_probs") for T in lengths]
    points += [("V", V, 128, V, "cppo-topk", "topk") for V in vocabularies]
    step(toy(15, device), 16, "cppo", "log_probs")
    for kind, size, T, V, method, keep in points:
        policy = toy(V, device)
        if device != "cpu":  # kernels are compiled for each width
            step(policy, T, method, keep)  # type: ignore[arg-type]
        turns = max(1, min(repeats, 1024 // T)) if kind == "T" else max(1, min(repeats, 64_000 // V))
        before = resident(device)
        measured = [step(policy, T, method, keep) for _ in range(turns)]  # type: ignore[arg-type]
        row = {name: statistics.median(m[name] for m in measured) for name in measured[0]}
        row |= {"turns": turns, "peak_mb": peak(device) - before}
        print(f"growth, {kind} = {size}: {row['rollout_s']:.3g} and {row['update_s']:.3g} s", file=sys.stderr)
        yield {"kind": f"growth in {kind}", "size": size, **row}


def step(policy: Policy, T: int, method: str, needs: Needs) -> dict[str, float]:
    """Seconds of a rollout of ROWS responses of T tokens, of an update with it, and of the update's mask alone."""
    clock = [now()]
    rollout = sample(policy, [[2] * PROMPT], T, 1.0, generator_for(0, "growth"), needs=needs, samples=ROWS)
    clock.append(now())
    scores = response_log_probs(policy, rollout, 1.0, needs)
    noisy = scores.log_probs + 0.1 * torch.randn_like(scores.log_probs)  # so that the mask is active
    clock.append(now())
    advantages = torch.linspace(-1, 1, ROWS, device=policy.device)
    batch = dataclasses.replace(rollout, advantages=advantages).token_batch(noisy.clamp(max=0), scores.top_log_probs)
    out = get_method(method)(batch)
    clock.append(now())
    loss = policy_loss(scores.log_probs, out.weight, advantages, rollout.response_mask, horizon=T)
    loss.backward()
    clock.append(now())
    assert rollout.response_mask.all()
    assert math.isfinite(loss.item())
    return {"rollout_s": clock[1] - clock[0], "update_s": clock[4] - clock[1], "mask_ms": 1e3 * (clock[3] - clock[2])}


def now() -> float:
    synchronize()
    return time.perf_counter()


def resident(device: str) -> float:
    """MB in use now, memory that was freed given back; the peak is counted from here."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier steps freed is used again, and not seen
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):  # not Linux, or not glibc
        return math.nan
    return _status("VmRSS")


def peak(device: str) -> float:
    """Most MB in use since `resident`; NaN where the system does not tell."""
    return torch.cuda.max_memory_allocated() / 2**20 if device != "cpu" else _status("VmHWM")


def _status(key: str) -> float:
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(key)), math.nan)


def main() -> None:
    args = options(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", FutureWarning)  # what TRL and transformers have to settle between them
    rows = []
    given = args.device, args.repeats, args.small
    clock = time.process_time if args.cpu_time else time.perf_counter
    for row in itertools.chain(peers(*given, clock), growth(*given)):
        rows.append(row)
        store(args, "end_to_end", rows, done=False, clock=clock.__name__)
    store(args, "end_to_end", rows, clock=clock.__name__)
    beside = [row for row in rows if row["kind"] == "peers"]
    heads = {"policy": "{parameters}", "lengths": "{lengths}", "tokens a response": "{tokens:.1f}, {trl_tokens:.1f}"}
    heads |= {"minicppo, tokens/s": "{ours_per_s:,.0f}", "TRL": "{trl_per_s:,.0f}", "times faster": "{ratio:.1f}"}
    heads["of the machine's products"] = "{of_machine:.0%}"
    print(table(beside, heads), end="\n\n")
    costs = {"": "{kind}", "size": "{size:,}", "rollout, s": "{rollout_s:.2f}", "update, s": "{update_s:.2f}"}
    print(table(rows[len(beside) :], {**costs, "of it mask, ms": "{mask_ms:.1f}", "peak, MB": "{peak_mb:.0f}"}))


if __name__ == "__main__":
    main()
