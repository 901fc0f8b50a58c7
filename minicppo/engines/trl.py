"""The TRL engine: `GRPOTrainer` with any method of the registry in the place of its loss.

`CPPOTrainer` and `CPPOConfig` are drop-ins for `GRPOTrainer` and `GRPOConfig`; `train` and `resume` run our own
configurations (`engine: trl`). Importing this module fails on any other TRL than the pinned one.
"""

from minicppo.engines.trl_pin import require_pinned

require_pinned()

from minicppo.engines.trl_config import LOSS_TYPES, CPPOConfig  # noqa: E402
from minicppo.engines.trl_run import resume, train  # noqa: E402
from minicppo.engines.trl_trainer import CPPOTrainer  # noqa: E402

__all__ = ["LOSS_TYPES", "CPPOConfig", "CPPOTrainer", "resume", "train"]
