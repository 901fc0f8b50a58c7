"""What a run takes, estimated from a model's architecture: parameters, bytes on each GPU, seconds. Nothing is measured.

Architectures: the models' published config.json (Qwen3 Technical Report, arXiv 2505.09388). GPUs: the makers' data
sheets, dense bfloat16. Everything else here is arithmetic, and ours.
"""

from dataclasses import dataclass

from minicppo.engines.tables import is_megatron, longest_response, tokens_per_gpu
from minicppo.rl.config import RunConfig

GB = 1e9


@dataclass(frozen=True)
class Architecture:
    """A Qwen3 decoder: grouped-query attention with query-key norms, SwiGLU; experts in the place of the MLP or not."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int  # of the MLP, or of one expert
    tied: bool  # one matrix for embedding and output
    experts: int = 0
    active_experts: int = 0
    head_dim: int = 128
    vocabulary: int = 151936

    @property
    def attention(self) -> int:
        """Parameters of one layer outside the MLP."""
        projections = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return projections + 2 * self.head_dim + 2 * self.hidden + self.hidden * self.experts

    @property
    def mlp(self) -> int:
        """Parameters of one MLP, or of one expert."""
        return 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        """All of them: embedding, output and final norm, and the layers."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden
        return embeddings + self.layers * (self.attention + self.mlp * max(self.experts, 1))

    @property
    def active(self) -> int:
        """Those a token is multiplied with: without the embedding's look-up, with the active experts alone."""
        output = self.vocabulary * self.hidden + self.hidden
        return output + self.layers * (self.attention + self.mlp * (self.active_experts or 1))

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values a token leaves in the cache, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim


ARCHITECTURES = {
    "0.6B": Architecture(1024, 28, 16, 8, 3072, tied=True),
    "1.7B": Architecture(2048, 28, 16, 8, 6144, tied=True),
    "8B": Architecture(4096, 36, 32, 8, 12288, tied=False),
    "30B-A3B": Architecture(2048, 48, 32, 4, 768, tied=False, experts=128, active_experts=8),
}


def architecture_of(source: str | None) -> Architecture | None:
    """The architecture of a Qwen3 model by its name, base or post-trained; None for any other."""
    name = (source or "").rstrip("/").rsplit("/", 1)[-1].removeprefix("Qwen3-").removesuffix("-Base")
    return ARCHITECTURES.get(name)


@dataclass(frozen=True)
class Gpu:
    """memory in bytes, flops a second in dense bfloat16, bandwidth in bytes a second."""

    memory: float
    flops: float
    bandwidth: float


GPUS = {
    "rtx4090-24gb": Gpu(24 * GB, 165e12, 1.01e12),
    "a100-80gb": Gpu(80 * GB, 312e12, 2.04e12),
    "h100-80gb": Gpu(80 * GB, 989e12, 3.35e12),
    "h20-96gb": Gpu(96 * GB, 148e12, 4.0e12),
    "h200-141gb": Gpu(141 * GB, 989e12, 4.8e12),
}


class Load:
    """A run as the estimates see it."""

    def __init__(self, config: RunConfig, model: Architecture, gpu: Gpu):
        group, k = config.rollout.group_size, config.rollout.top_log_probs
        self.model, self.gpu, self.cluster, self.gpus = model, gpu, config.cluster, config.cluster.gpus
        # TRL: each GPU holds the whole model, samples with the weights it trains and never holds whole rows of logits,
        # instead of a shard of it beside a rollout engine (verl)
        self.whole = config.engine == "trl"
        self.responses = config.rollout.prompts * group  # of one rollout batch
        self.horizon = longest_response(config)
        self.micro_tokens = tokens_per_gpu(config)  # of one forward pass in training
        self.at_once = (config.rollout.batch or 0) * group if self.whole else 0  # sampled by a GPU; 0: as fit
        self.replica = 1 if self.whole else config.cluster.rollout_tensor_parallel  # GPUs of one rollout engine
        self.replicas = max(self.gpus // self.replica, 1)
        # bytes that one of them reads in each step: float32 as trained, or a bfloat16 copy
        self.rollout_weights = (4.0 if self.whole else 2.0) * model.parameters
        self.top_log_probs = k if config.make_method().needs == "topk" else 0  # of each token


def load_of(config: RunConfig) -> Load | None:
    """What the estimates need of a configuration; None for a model or GPU they do not know, and engine local."""
    model, gpu = architecture_of(config.model.source), GPUS.get(config.cluster.gpu)
    return None if model is None or gpu is None or config.engine == "local" else Load(config, model, gpu)


def state_bytes(load: Load) -> dict[str, float]:
    """Bytes on one GPU that stay through a run.

    Float32 parameters (4), gradients (4) and two Adam moments (8) of each parameter, on each GPU or, under FSDP2, over
    all. Megatron with its distributed optimiser: bfloat16 parameters (2) and float32 gradients (4) over the
    model-parallel GPUs, float32 copy and moments (12) over all.
    """
    model, cluster = load.model, load.cluster
    if not is_megatron(cluster):
        share = model.parameters / (1 if load.whole else load.gpus)
        return {"parameters": 4 * share, "gradients": 4 * share, "optimiser": 8 * share}
    experts = model.layers * model.experts * model.mlp
    others = (model.parameters - experts) / (cluster.tensor_parallel * cluster.pipeline_parallel)
    local = others + experts / (cluster.expert_parallel * cluster.pipeline_parallel)
    return {"parameters": 2 * local, "gradients": 4 * local, "optimiser": 12 * model.parameters / load.gpus}


def training_bytes(load: Load) -> dict[str, float]:
    """Bytes that a forward and backward pass adds on one GPU, activations recomputed layer by layer.

    Kept: each layer's input. At work: one layer's values (about 34 bytes a hidden unit and 8 a unit of the active
    MLPs), under FSDP2 also whole parameters of two layers and the output in bfloat16. Logits with their gradient: 6.
    """
    model, tokens = load.model, load.micro_tokens / load.cluster.tensor_parallel
    sharded = not (load.whole or is_megatron(load.cluster))
    gathered = 2 * (2 * (model.attention + model.mlp) + model.vocabulary * model.hidden) if sharded else 0
    wide = model.intermediate * (model.active_experts or 1)
    return {
        "activations": 2 * tokens * model.hidden * model.layers / load.cluster.pipeline_parallel,
        "one layer at work": tokens * (34 * model.hidden + 8 * wide) + gathered,
        "logits": 0.0 if load.whole else 6 * tokens * model.vocabulary,
    }


def cache(load: Load) -> dict[str, float]:
    """Keys and values: bytes of the longest sequence, of all, and what room a replica has for how many at a time.

    Room: what `rollout_memory` leaves beside a copy of the weights, or four fifths of what the training state leaves.
    """
    sequence = load.model.kv_bytes * (load.cluster.max_prompt_tokens + load.horizon)
    if load.whole:
        room = 0.8 * (load.gpu.memory - sum(state_bytes(load).values()))
    else:
        room = load.replica * load.cluster.rollout_memory * load.gpu.memory - load.rollout_weights
    return {
        "a sequence": sequence,
        "all sequences": sequence * load.responses,
        "room": max(room, 0.0),
        "at a time": min(max(room, 0.0) // sequence, -(-load.responses // load.replicas)),
    }


def peak_bytes(load: Load) -> dict[str, float]:
    """The most that one GPU holds in either half of a step."""
    state = sum(state_bytes(load).values())
    if load.whole:
        sampling = state + (load.at_once or load.responses // load.gpus) * cache(load)["a sequence"]
    else:
        sampling = load.cluster.rollout_memory * load.gpu.memory + (0.0 if load.cluster.offload else state)
    return {"sampling": sampling, "training": state + sum(training_bytes(load).values())}


def top_log_prob_bytes(load: Load) -> dict[str, float]:
    """Top-K of mu for a rollout batch, in bytes: as tensors (int64 id, float32 log-prob), as lists of numbers."""
    kept = load.responses * load.horizon * load.top_log_probs
    return {"as tensors": 12.0 * kept, "as Python objects": 60.0 * kept}


ASSUMED = {  # by the estimates of time, and printed beside them
    "mean_length": 0.5,  # of a response, as a share of the longest allowed
    "mean_prompt": 200,  # tokens
    "training_utilisation": 0.35,  # of the GPU's bfloat16 peak
    "bandwidth_utilisation": 0.5,  # of the GPU's memory bandwidth, while decoding
    "recomputation": 2.0,  # further FLOPs a parameter and trained token, for checkpointed activations
    "launch_seconds": 0.03,  # the least a decoding step takes where Python starts every kernel (the TRL engine)
}


def generation_seconds(load: Load, responses: float, at_once: int) -> float:
    """Decoding `responses` on each replica, `at_once` together (0: as fit): each step reads the weights and the caches.

    Steps under verl: as many as the longest response has, or more where not all sequences fit at a time; never faster
    than the arithmetic, 2 FLOPs an active parameter and token. Under TRL each batch lasts as long as its longest
    response. A mixture of experts reads all experts in every step.
    """
    length = ASSUMED["mean_length"] * load.horizon
    fit = max(cache(load)["room"] // cache(load)["a sequence"], 1.0)
    together = min(at_once or fit, responses)
    steps = load.horizon * -(-responses // together) if load.whole else max(load.horizon, responses * length / together)
    read = load.rollout_weights + together * load.model.kv_bytes * (ASSUMED["mean_prompt"] + length / 2)
    step = read / (load.replica * load.gpu.bandwidth * ASSUMED["bandwidth_utilisation"])
    flops = 2 * load.model.active * responses * length
    by_memory = steps * (max(step, ASSUMED["launch_seconds"]) if load.whole else step)
    return max(by_memory, flops / (load.replica * load.gpu.flops * ASSUMED["training_utilisation"]))


def training_seconds(load: Load, epochs: int) -> float:
    """Updates with one rollout batch: 6 FLOPs an active parameter and token, and the recomputation."""
    tokens = load.responses * (ASSUMED["mean_length"] * load.horizon + ASSUMED["mean_prompt"]) * epochs
    flops = (6 + ASSUMED["recomputation"]) * load.model.active * tokens
    return flops / (load.gpus * load.gpu.flops * ASSUMED["training_utilisation"])
