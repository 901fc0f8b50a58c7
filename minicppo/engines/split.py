"""How a run's model and responses are split over GPUs."""

from minicppo.rl.config import RunConfig
from minicppo.rl.sections import ClusterConfig


def is_megatron(cluster: ClusterConfig) -> bool:
    """Whether Megatron trains under verl, not FSDP2."""
    return max(cluster.tensor_parallel, cluster.pipeline_parallel, cluster.expert_parallel) > 1


def data_parallel(config: RunConfig) -> int:
    """verl's ranks that each see other responses."""
    return config.cluster.gpus // (config.cluster.tensor_parallel * config.cluster.pipeline_parallel)


def tokens_per_gpu(config: RunConfig) -> int:
    """Tokens of one packed micro-batch: as many as `train.micro_batch` responses of the greatest length have."""
    rows = config.prompts_per_update * config.rollout.group_size // data_parallel(config)
    longest = config.cluster.max_prompt_tokens + longest_response(config)
    return longest * min(config.train.micro_batch or rows, rows)


def micro_batches(config: RunConfig, processes: int) -> tuple[int, int, int]:
    """Under TRL: responses of an update, those of one process in one forward pass, and how many passes it makes."""
    responses = config.prompts_per_update * config.rollout.group_size
    rows = max(min(config.train.micro_batch or responses, responses // processes), 1)
    return responses, rows, responses // (rows * processes)


def longest_response(config: RunConfig) -> int:
    """In tokens."""
    return config.max_new_tokens(config.make_task())
