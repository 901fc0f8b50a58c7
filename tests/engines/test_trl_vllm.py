"""vLLM's server mode behind a stub of its HTTP answers: our sampler draws them, on this machine."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="the TRL engine needs trl (pip install -e '.[trl]')")

from trl.generation import vllm_client, vllm_generation

from minicppo.rl.sampling import sample
from tests.engines.stale import tiny_policy
from tests.engines.test_trl_features import trained
from tests.engines.trl_setup import feature, refused, trainer_of

GIVEN = "processed_logprobs"


@contextmanager
def server(policy: Any, mode: str = GIVEN):
    """A vLLM server of this policy; what it is asked for goes to `asked`."""
    asked = []

    class Answers(BaseHTTPRequestHandler):
        def answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            info = {"vllm_config": {"model_config": {"logprobs_mode": mode}}, "data": [{"id": "stub"}]}
            self.answer(info)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
            self.answer({"choices": completions(request)} if "prompt" in request else {})

        def log_message(self, *_: Any) -> None:
            pass

    def completions(request: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append(request)
        generator = torch.Generator().manual_seed(len(asked))
        n, k, prompts = request["n"], request["logprobs"], request["prompt"]
        found = sample(
            policy, prompts, request["max_tokens"], request["temperature"], generator, "topk", max(k, 1), samples=n
        )
        choices = []
        for row, length in enumerate(found.response_mask.sum(1).tolist()):
            ids, top = found.response_ids[row, :length].tolist(), []
            for t in range(length if k else 0):
                pairs = zip(found.top_ids[row, t].tolist(), found.top_log_probs[row, t].tolist(), strict=True)
                top.append({f"token_id:{token}": value for token, value in pairs})
            log_probs = {
                "tokens": [f"token_id:{token}" for token in ids],
                "token_logprobs": found.log_probs[row, :length].tolist(),
                "top_logprobs": top or [None] * length,
            }
            choices.append({"prompt_token_ids": prompts[row // n], "token_ids": ids, "logprobs": log_probs})
        return choices

    http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=http.serve_forever, args=[0.01], daemon=True).start()  # looks so often for its end
    try:
        yield f"http://127.0.0.1:{http.server_port}", asked
    finally:
        http.shutdown()
        http.server_close()


@pytest.fixture
def _as_if_installed(monkeypatch):
    """The client without vLLM's own package, whose part is the transfer of weights over NCCL."""
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_, **__: True)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda self, **_: None)
    monkeypatch.setattr(vllm_client.VLLMClient, "update_named_params", lambda self, metadata, weights: list(weights))


def settings(url: str) -> dict[str, Any]:
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": url, "temperature": 0.8}


@feature("vLLM's server, behind a stub of its answers", "works")
@pytest.mark.usefixtures("_as_if_installed")
def test_a_server_s_rollouts_are_trained_on(tmp_path):
    policy = tiny_policy()
    with server(policy) as (url, asked):  # it shares our weights, as after a transfer
        trainer, loop = trained(tmp_path, policy, **settings(url))
    assert (asked[0]["temperature"], asked[0]["top_p"]) == (0.8, 1.0)
    assert trainer.state.log_history[0]["mismatch/drift"] < 1e-5
    assert trainer.state.log_history[1]["mask/frac"] > 0
    assert max(loop.apart) < 2e-5


@feature("vLLM's server with Top-K, behind a stub of its answers", "works")
@pytest.mark.usefixtures("_as_if_installed")
def test_a_server_s_top_k_is_trained_on(tmp_path):
    policy, given = tiny_policy(), {"method": "cppo-topk", "top_log_probs": 6}
    with server(policy) as (url, _):
        trainer = trainer_of(policy, tmp_path, max_steps=1, logging_steps=1, **settings(url), **given)
        trainer.train()
    assert trainer.state.log_history[0]["mismatch/div/max"] < 1e-5


WRONG = [
    refused("vLLM's raw log-probs, at another temperature", {"mode": "raw_logprobs"}, {}, "processed_logprobs"),
    refused("more Top-K log-probs than vLLM returns", {}, {"method": "cppo-topk", "top_log_probs": 21}, "20 at most"),
    refused("exact divergences with vLLM", {}, {"method": "cppo-exact"}, "the likeliest tokens only"),
]


@pytest.mark.usefixtures("_as_if_installed")
@pytest.mark.parametrize(("served", "given", "message"), WRONG)
def test_what_a_server_cannot_supply_is_refused(served, given, message, tmp_path):
    with server(tiny_policy(), **served) as (url, _), pytest.raises(ValueError, match=message):
        trainer_of(tiny_policy(), tmp_path, **settings(url), **given)
