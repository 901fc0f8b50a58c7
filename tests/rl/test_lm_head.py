"""The head: it equals the loop twin and the plain way."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minicppo.reference.lm_head import head_entropy, head_gradients, head_log_probs
from minicppo.rl.lm_head import linear_head, token_log_probs
from tests.rl.models import DIRECT, RECURRENT, SHAPED, model


def assert_near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-5) -> None:
    """Each tensor to `rtol` of the largest entry of all."""
    scale = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=rtol * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def inputs(m: int, v: int, d: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Hidden states, weights and bias with gradient; targets, further tokens and upstream gradients."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((m, d), (v, d), (v,))
    )
    targets, top = torch.randint(v, (m,), generator=rng), torch.randint(v, (m, k), generator=rng)
    return hidden, weight, bias, targets, top, torch.randn(m, generator=rng, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("tile", [(64, 256), (5, 16), (1, 101), (13, 1)])
def test_the_head_is_its_loop_twin(tile, temperature):
    hidden, weight, bias, targets, top, upstream = inputs(13, 101, 6, 4)
    found = token_log_probs(hidden, weight, bias, targets, top, temperature, tile)
    given = [x.detach().numpy() for x in (hidden, weight, bias)]
    rows = np.array([head_log_probs(h, *given[1:], temperature) for h in given[0]])
    np.testing.assert_allclose(found.log_probs.detach(), rows[np.arange(13), targets], rtol=1e-12)
    np.testing.assert_allclose(found.entropy, [head_entropy(row) for row in rows], rtol=1e-11)
    np.testing.assert_allclose(found.top_log_probs, np.take_along_axis(rows, top.numpy(), 1), rtol=1e-12)
    twin = head_gradients(*given, targets.tolist(), temperature, upstream.tolist())
    own = torch.autograd.grad(found.log_probs, (hidden, weight, bias), upstream)
    for mine, theirs in zip(own, twin, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12 * np.abs(theirs).max())


def test_only_what_asks_for_a_gradient_gets_one():
    hidden, weight, bias, targets, top, upstream = inputs(9, 33, 5, 2)
    whole = torch.autograd.grad(token_log_probs(hidden, weight, bias, targets).log_probs, (hidden, weight), upstream)
    found = token_log_probs(hidden, weight.detach(), bias.detach(), targets, top, tile=(4, 8))
    assert not found.entropy.requires_grad
    assert not found.top_log_probs.requires_grad
    torch.testing.assert_close(torch.autograd.grad(found.log_probs, hidden, upstream)[0], whole[0])
    found = token_log_probs(hidden.detach(), weight, None, targets, tile=(4, 8))
    assert torch.autograd.grad(found.log_probs, weight, upstream)[0].shape == weight.shape
    assert not token_log_probs(hidden.detach(), weight.detach(), None, targets).log_probs.requires_grad


def test_no_tokens_at_all():
    hidden, weight, bias, targets, top, _ = inputs(0, 33, 5, 2)
    found = token_log_probs(hidden, weight, bias, targets, top)
    assert [len(x) for x in vars(found).values()] == [0, 0, 0]
    found.log_probs.sum().backward()
    assert not weight.grad.any()


def test_a_sure_token_keeps_its_small_gradient_in_bfloat16():
    """1 - p of a token with p = 0.9999 is below bfloat16's resolution of p."""
    hidden = torch.eye(4)[:1].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = token_log_probs(hidden, torch.eye(4) * 10, None, torch.tensor([0])).log_probs
    (found,) = torch.autograd.grad(log_probs.sum(), hidden)
    rest = 3 / (np.exp(10.0) + 3)
    assert abs(float(found[0, 0]) / (10 * rest) - 1) < 0.01


@pytest.mark.parametrize("name", [*DIRECT, "gpt2", "gpt-neox", "mistral-window", *RECURRENT, *SHAPED])
def test_a_head_is_used_alone_where_the_logits_are_just_its_output(name):
    made = model(name)
    ids = torch.tensor([[5, 6, 7]])
    hidden = made.base_model(input_ids=ids)[0]
    head = made.get_output_embeddings()
    alone = nn.functional.linear(hidden, head.weight, head.bias)
    same = alone.shape[-1] == 16 and torch.allclose(alone, made(input_ids=ids).logits, atol=1e-6)
    assert same or name in SHAPED
    with torch.no_grad():  # as that of padding is in many models: zeros must not hide what shapes logits
        made.get_input_embeddings().weight[:4] = 0
    assert (linear_head(made) is not None) == (name not in SHAPED)


def test_gemma2_without_its_cap_is_linear():
    assert linear_head(model("gemma2", final_logit_softcapping=None)) is not None


def test_a_head_replaced_or_hooked_later_is_asked_anew():
    class Adapted(nn.Linear):
        def forward(self, input):
            return super().forward(input) + input.sum(-1, keepdim=True)

    made = model("llama-grouped")
    head = made.get_output_embeddings()
    assert linear_head(made) is head
    for other in (nn.Sequential(head, nn.Softplus()), Adapted(24, 16, bias=False)):
        made.lm_head = other
        assert linear_head(made) is None
    made.lm_head = head
    hooks = [
        lambda: head.register_forward_hook(lambda module, args, output: output / 2),
        lambda: head.register_forward_pre_hook(lambda module, args: args[0] / 2),
    ]
    for register in hooks:
        hook = register()
        assert linear_head(made) is None
        hook.remove()
    assert linear_head(made) is head


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_on_a_gpu(dtype):
    hidden, weight, bias, targets, top, upstream = (x.detach() for x in inputs(300, 3001, 64, 4, torch.float32))
    hidden /= 8
    results = []
    for device in ("cpu", "cuda"):
        own = [x.to(device).requires_grad_() for x in (hidden, weight, bias)]
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            found = token_log_probs(*own, targets.to(device), top.to(device), 0.9, (128, 512))
        grads = torch.autograd.grad(found.log_probs, own, upstream.to(device))
        results.append({str(i): x.detach().cpu() for i, x in enumerate((*vars(found).values(), *grads))})
    for key, value in results[0].items():
        assert_near({key: results[1][key]}, {key: value}, 1e-4 if dtype == torch.float32 else 0.03)
