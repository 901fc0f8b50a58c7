"""An independent loop beside the trainer: every update's gradient again, a response at a time, weights by loop twins.

No padding, no fused head, no `minicppo.rules`: plain `transformers` forward passes and `minicppo.reference`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from minicppo.engines.trl import CPPOTrainer
from minicppo.reference import LOOPS, Response


class Loop(TrainerCallback):
    """Compares each update's gradient, before it is used, with the loop's on the same responses."""

    def __init__(self, trainer: CPPOTrainer):
        self.trainer, self.seen, self.apart, self.masked = trainer, [], [], []
        inner = trainer._compute_loss

        def watched(model: Any, inputs: dict[str, Any]) -> Tensor:
            self.seen += [dict(inputs)] * model.training
            return inner(model, inputs)

        trainer._compute_loss = watched
        trainer.add_callback(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        trained = [p for p in model.parameters() if p.requires_grad]
        parts, self.seen = self.seen, []
        losses = [self.loss(model, part) * self.share(part, len(parts)) for part in parts]
        wanted = torch.autograd.grad(sum(losses) + 0 * trained[0].sum(), trained, allow_unused=True)
        wanted = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, wanted, strict=True)]
        wanted = [self.trainer.accelerator.reduce(g, "mean") for g in wanted]
        scale = max(float(g.abs().max()) for g in wanted)
        gaps = [(torch.zeros_like(g) if p.grad is None else p.grad) - g for p, g in zip(trained, wanted, strict=True)]
        self.apart.append(max(float(gap.abs().max()) for gap in gaps) / max(scale, 1e-30))

    def share(self, part: dict[str, Any], parts: int) -> float:
        """What makes a mean over the update of one over a micro-batch."""
        if self.trainer.loss_type != "dapo":
            return 1 / parts
        updates = self.trainer.args.steps_per_generation / parts  # of one rollout, whose tokens are counted
        return updates * self.trainer.accelerator.num_processes / float(part["num_items_in_batch"])

    def loss(self, model: Any, part: dict[str, Any]) -> Tensor:
        args, rows, lengths, entropies = self.trainer.args, [], [], []
        counted = part["completion_mask"] * part.get("tool_mask", 1)
        for b in range(len(counted)):
            prompt, n = part["prompt_ids"][b][part["prompt_mask"][b].bool()], int(part["completion_mask"][b].sum())
            if n == 0:
                rows.append(torch.zeros(()))
                lengths.append(1)
                continue
            out = model(input_ids=torch.cat([prompt, part["completion_ids"][b, :n]])[None], use_cache=False)
            log_p = (out.logits[0, -n - 1 : -1].float() / args.temperature).log_softmax(-1)
            own = counted[b, :n].bool()
            log_p = log_p[own]
            log_pi = log_p.gather(1, part["completion_ids"][b, :n][own][:, None])[:, 0]
            mu, A = part["sampling_per_token_logps"][b, :n][own].exp().tolist(), float(part["advantages"][b])
            method = self.trainer.method
            g = LOOPS[method.family](Response(mu, log_pi.exp().tolist(), [A] * len(mu)), **method.params)
            self.masked += [x == 0 for x in g]
            rows.append((-torch.tensor(g) * A * log_pi).sum())
            lengths.append(len(mu))
            entropies.append(-(log_p.exp() * log_p).sum(1))
        total = {
            "dapo": lambda: sum(rows),
            "bnpo": lambda: sum(rows) / max(int(counted.sum()), 1),
            "grpo": lambda: sum(r / n for r, n in zip(rows, lengths, strict=True)) / len(lengths),
            "luspo": lambda: sum(rows) / len(lengths),
            "dr_grpo": lambda: sum(rows) / len(lengths) / args.max_completion_length,
        }[self.trainer.loss_type]()
        if args.entropy_coef:
            total = total - args.entropy_coef * torch.cat(entropies).mean()
        if self.trainer.aux_loss_enabled:  # of experts, over the whole micro-batch
            ids, mask = (torch.cat([part[f"prompt_{x}"], part[f"completion_{x}"]], 1) for x in ("ids", "mask"))
            balance = model(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss
            total = total + self.trainer.router_aux_loss_coef * balance
        return total
