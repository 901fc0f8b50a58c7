"""Each engine's way from columns of whole sequences to a loss, with our adapter in its place.

A driver takes samples, a method with its hyper-parameters and an aggregation, and returns the loss, its gradient by
sequence and the metrics. Of an engine that no registry has, or none for this Python, there are two: "documented", the
call that its source documents, and "own", its own files out of a clone in the folder MINICPPO_ENGINES, where only what
they import of configuration, data classes and Ray is a stub. Without a clone the latter is skipped.
"""

import enum
import importlib
import importlib.util
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minicppo.engines import prime_rl, skyrl, tinker
from minicppo.engines.samples import Sample, engine_method
from tests.engines.sequences import HORIZON, PROMPTS

Found = tuple[float, list[Tensor], dict[str, Any]]
COLUMNS = ("log_probs", "rollout_log_probs", "mask", "advantages", "old_log_probs")


def padded(samples: list[Sample], name: str) -> Tensor:
    return pad_sequence([getattr(sample, name) for sample in samples], batch_first=True)


def found(loss: Tensor, samples: list[Sample], metrics: dict[str, Any]) -> Found:
    loss.backward()
    return float(loss.detach()), [sample.log_probs.grad for sample in samples], metrics


def clone(repository: str) -> Path:
    """The folder of an engine's clone, or skip."""
    root = Path(os.environ.get("MINICPPO_ENGINES", "/nonexistent")) / repository
    if not root.exists():
        pytest.skip(f"MINICPPO_ENGINES names no folder with a clone {repository}")
    return root


@contextmanager
def modules(stubs: dict[str, dict[str, Any]], repository: str = "", *files: str) -> Iterator[None]:
    """These stubs, and then these files of an engine's clone, as modules; afterwards as before."""
    root = clone(repository) if files else Path()
    with pytest.MonkeyPatch.context() as patch:
        for name in (*stubs, *files):
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                patch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(".".join(parts[:end])))
            vars(sys.modules[name]).update(stubs.get(name, {}))
        for name in files:
            spec = importlib.util.spec_from_file_location(name, root.joinpath(*name.split(".")).with_suffix(".py"))
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        yield


# prime-rl: one call a sample, the sums added up and divided by the count of tokens

PRIME = "prime_rl.trainer.rl.loss"


def prime_rl_documented(samples: list[Sample], name: str, mode: str = "", weights: Any = None, **params: Any) -> Found:
    total, metrics = torch.zeros(()), {}
    with modules({PRIME: {"LossOutputs": SimpleNamespace}}):
        for sample, weight in zip(samples, weights or [None] * len(samples), strict=True):
            names = ("trainer_logprobs", "inference_logprobs", "loss_mask", "advantages")
            inputs = dict(zip(names, (getattr(sample, column) for column in COLUMNS), strict=False))
            out = prime_rl.loss(SimpleNamespace(**inputs, loss_weights=weight), method=name, params=params)
            total, metrics = total + out.loss, out.metrics
    return found(total / sum(int(sample.mask.sum()) for sample in samples), samples, metrics)


def prime_rl_own(samples: list[Sample], name: str, mode: str = "", weights: Any = None, **params: Any) -> Found:
    names = ("CustomLossConfig", "DefaultLossConfig", "IPOLossConfig", "LossConfig")
    kinds = {kind: type(kind, (SimpleNamespace,), {}) for kind in names}
    stubs: dict[str, dict[str, Any]] = {"prime_rl.configs.trainer": kinds}
    stubs["prime_rl.utils.utils"] = {"import_object": {"minicppo.engines.prime_rl.loss": prime_rl.loss}.__getitem__}
    with modules(stubs, "prime-rl/src", PRIME):
        source, kwargs = sys.modules[PRIME], {"method": name, "params": params}
        config = kinds["CustomLossConfig"](import_path="minicppo.engines.prime_rl.loss", kwargs=kwargs)
        pi, mu, mask, advantages, _ = ([getattr(sample, column) for sample in samples] for column in COLUMNS)
        counts = sum(int(each.sum()) for each in mask), 1, 1
        loss_fn = source.setup_rl_loss_fn(config)
        loss, metrics = source.compute_loss(pi, mu, None, advantages, mask, weights, None, None, loss_fn, *counts)
    return found(loss, samples, {key: value.mean() for key, value in metrics.items()})


# Tinker: columns of the target tokens; its server would return pi's log-probs, and takes minus the gradient


def datum(sample: Sample, **columns: Tensor) -> Any:
    client = pytest.importorskip("tinker", reason="tinker is not installed: pip install tinker")
    names = ("logprobs", "mask", "advantages", "old_logprobs")
    given = {key: getattr(sample, column) for key, column in zip(names, COLUMNS[1:], strict=True)}
    inputs = {key: value[1:].float() for key, value in given.items() if value is not None}
    inputs["target_tokens"] = torch.ones(len(sample.mask) - 1, dtype=torch.long)
    tokens = client.ModelInput.from_ints([1] * (len(sample.mask) - 1))
    return client.Datum(model_input=tokens, loss_fn_inputs=inputs | columns)


def differentiated(data: list[Any], log_probs: list[Tensor], loss: Callable[..., Any]) -> Found:
    """Through the code of Tinker's own `TrainingClient`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = importlib.import_module("tinker")
        trainer = importlib.import_module("tinker.lib.public_interfaces.training_client").TrainingClient
    outputs = [{"logprobs": client.TensorData.from_torch(column)} for column in log_probs]
    forward = client.ForwardBackwardOutput(loss_fn_output_type="", loss_fn_outputs=outputs, metrics={})
    result = trainer._compute_custom_loss(data, loss, forward)
    return result.loss_sum, [-each.loss_fn_inputs["weights"].to_torch() for each in result.data], result.metrics


def tinker_own(samples: list[Sample], name: str, mode: str = "token-mean", **params: Any) -> Found:
    data, columns = [datum(sample) for sample in samples], [sample.log_probs.detach()[1:] for sample in samples]
    loss = tinker.custom_loss(name, loss_agg_mode=mode, horizon=HORIZON, **params)
    value, gradients, metrics = differentiated(data, columns, loss)
    return value, [torch.nn.functional.pad(gradient, (1, 0)) for gradient in gradients], metrics


# SkyRL: rows of responses, advantages divided beforehand, a sum wanted

UTILS = "skyrl.backends.skyrl_train.utils"
REDUCTIONS = {"token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean"}


def skyrl_documented(samples: list[Sample], name: str, mode: str = "token-mean", **params: Any) -> Found:
    def divided(advantages: Tensor, mask: Tensor, reduction: str, *_: int) -> Tensor:
        by = {"token_mean": mask.sum(), "sequence_mean": len(mask) * mask.sum(1, keepdim=True)}
        return advantages / by.get(reduction, len(mask) * HORIZON)

    return _skyrl(samples, mode, partial(skyrl.method_loss, method=name, params=params), divided)


def skyrl_own(samples: list[Sample], name: str, mode: str = "token-mean", **params: Any) -> Found:
    stubs: dict[str, dict[str, Any]] = {"skyrl.train.config": {"AlgorithmConfig": None}, "loguru": {"logger": None}}
    stubs |= {"omegaconf": {"DictConfig": None}}
    stubs["ray"] = {"remote": lambda kind: kind, "is_initialized": lambda: False}
    files = ("torch_utils", "off_policy_correction_utils", "ppo_utils")
    with modules(stubs, "SkyRL", *(f"{UTILS}.{file}" for file in files)):
        source = sys.modules[f"{UTILS}.ppo_utils"]
        registered = source.PolicyLossRegistry._functions[skyrl.register(name, params)]
        return _skyrl(samples, mode, registered, source.apply_loss_reduction_to_advantages_minibatch)


def _skyrl(samples: list[Sample], mode: str, loss: Callable[..., Any], divided: Callable[..., Tensor]) -> Found:
    cut = [Sample(*(getattr(s, column)[p:] for column in COLUMNS)) for s, p in zip(samples, PROMPTS, strict=True)]
    pi, mu, mask, advantages, old = (padded(cut, column) for column in COLUMNS)
    advantages = divided(advantages, mask.float(), REDUCTIONS.get(mode, "seq_mean_token_sum_norm"), 1, HORIZON)
    value, metrics = loss(pi, old, advantages, config=None, loss_mask=mask.float(), rollout_logprobs=mu)
    return found(value, samples, metrics)


# NeMo-RL: rows of whole sequences, the denominators of the step given

NEMO = "nemo_rl.algorithms.loss"


class Data(dict):
    """What of NeMo-RL's `BatchedDataDict` a loss and the packing wrapper use."""

    def slice(self, start: int, end: int) -> "Data":
        return Data({key: value[start:end] for key, value in self.items()})


@contextmanager
def nemo_rl(own: bool) -> Iterator[ModuleType]:
    """The adapter's module, over NeMo-RL's own interface and packing wrapper or over a stub of the former."""
    kinds = {"LossInputType": enum.Enum("LossInputType", "LOGPROB")}
    kinds["LossType"] = enum.Enum("LossType", "TOKEN_LEVEL SEQUENCE_LEVEL")
    stubs: dict[str, dict[str, Any]] = {"nemo_rl.distributed.batched_data_dict": {"BatchedDataDict": dict}}
    stubs |= {f"{NEMO}.loss_functions": {"DraftCrossEntropyLossFn": None}, f"{NEMO}.interfaces": {} if own else kinds}
    with modules(stubs, *(("RL", f"{NEMO}.interfaces", f"{NEMO}.wrapper") if own else ())):
        sys.modules.pop("minicppo.engines.nemo_rl", None)  # made for other stubs
        yield importlib.import_module("minicppo.engines.nemo_rl")


def micro_batch(samples: list[Sample]) -> tuple[Tensor, Data]:
    """pi's log-probs of the tokens after the first, (B, L-1), and the other columns, (B, L)."""
    names = ("generation_logprobs", "token_mask", "advantages", "prev_logprobs")
    data = Data({key: padded(samples, column) for key, column in zip(names, COLUMNS[1:], strict=True)})
    data |= {"token_mask": data["token_mask"].float(), "sample_mask": torch.ones(len(samples))}
    return padded(samples, "log_probs")[:, 1:], Data(data, input_ids=data["token_mask"].long())


def totals(data: Data) -> dict[str, Tensor]:
    tokens = (data["token_mask"][:, 1:] * data["sample_mask"][:, None]).sum()
    return {"global_valid_seqs": data["sample_mask"].sum(), "global_valid_toks": tokens}


def nemo_rl_of(own: bool, samples: list[Sample], name: str, mode: str = "token-mean", **params: Any) -> Found:
    log_probs, data = micro_batch(samples)
    with nemo_rl(own) as module:
        section = SimpleNamespace(method=name, params=params, loss_agg_mode=mode, horizon=HORIZON, ratio_clip_min=0.2)
        loss = module.of_config(section, use_fused_linear_logprobs=False)
        assert loss.loss_type.name == ("TOKEN_LEVEL" if mode == "token-mean" else "SEQUENCE_LEVEL")
        value, metrics = loss(next_token_logprobs=log_probs, data=data, **totals(data))
        return found(value, samples, metrics)


# TRL's asynchronous trainer: completions folded into one row, the step's count of tokens given

STEPS = 2  # of gradient accumulation
COUNTS = "_step_forward_tokens _step_trained_tokens _step_seq_len_weighted _step_samples _step_forward_s".split()


def trl_async_own(samples: list[Sample], name: str, mode: str = "", aux: float = 0.0, **params: Any) -> Found:
    """TRL's own packing and `compute_loss`; the model, and what the trainer has of servers and processes, are stubs."""
    packing = pytest.importorskip("trl.experimental.async_grpo.packing", reason="TRL is not installed")
    row = packing.TreeRow()
    for index, (sample, prompt) in enumerate(zip(samples, PROMPTS, strict=True)):
        ids = torch.arange(len(sample.mask)) + 100 * (index + 1)
        ids[: min(prompt, 2) if index < 2 else 0] = 7  # the first two have one prompt, which TRL reads once
        completion = {"input_ids": ids, "completion_mask": sample.mask.long(), "group_id": index}
        row.add(completion | {"old_log_probs": sample.rollout_log_probs, "advantage": float(sample.advantages[0])})
    inputs = {key: value[None] for key, value in row.pack().items()}
    width, targets = inputs["input_ids"].shape[1], [s.log_probs[1:][s.mask[1:]] for s in samples]
    log_probs = torch.zeros(width).index_copy(0, inputs["token_index"][0], torch.cat(targets))
    inputs["attention_mask"] = torch.ones(1, width)
    for key, value in (("n_tokens", len(inputs["token_index"][0])), ("n_forward_tokens", width)):
        inputs[f"global_{key}"] = torch.tensor([float(value)])
    inputs["mean_seq_len"] = torch.ones(1)
    trainer = object.__new__(importlib.import_module("minicppo.engines.trl_async").AsyncCPPOTrainer)
    vars(trainer).update(dict.fromkeys(COUNTS, 0.0), method=engine_method(name, params), router_aux_loss_coef=aux)
    trainer.accelerator = SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x)
    trainer._metrics, trainer.aux_loss_enabled = {"train": defaultdict(list)}, aux > 0
    trainer.epsilon_low = trainer.epsilon_high = 0.2
    trainer.current_gradient_accumulation_steps = STEPS
    output = SimpleNamespace(log_probs=log_probs[None], entropy=torch.zeros(1, width), aux_loss=torch.tensor(0.5))
    loss = trainer.compute_loss(lambda **_: output, inputs)
    metrics = trainer._metrics["train"]
    assert not any(key.startswith("clip_ratio") for key in metrics)
    return found(loss * STEPS, samples, {key: value[0] for key, value in metrics.items()})


NEMO_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
SKYRL_MODES = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm")
DRIVERS: dict[str, tuple[Callable[..., Found], tuple[str, ...]]] = {  # and the aggregations that each can do
    "prime-rl documented": (prime_rl_documented, ("token-mean",)),
    "prime-rl own": (prime_rl_own, ("token-mean",)),
    "tinker own": (tinker_own, NEMO_MODES),
    "skyrl documented": (skyrl_documented, SKYRL_MODES),
    "skyrl own": (skyrl_own, SKYRL_MODES),
    "nemo-rl documented": (partial(nemo_rl_of, False), NEMO_MODES),
    "nemo-rl own": (partial(nemo_rl_of, True), NEMO_MODES),
    "trl-async own": (trl_async_own, ("token-mean",)),
}
ONE_STEP = ("prime-rl", "trl-async")  # engines that use a sample for one step: pi_old is pi
