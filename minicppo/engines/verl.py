"""The verl engine: settings for verl's own trainer, and our methods as its policy losses.

`train` starts verl 0.9.1 in processes of its own. To use the losses with a trainer script of one's own, import
`minicppo.engines.verl_loss`, or set `policy_loss._target_` as `verl_overrides` does.
"""

from minicppo.engines.verl_config import loss_mode, verl_methods, verl_overrides
from minicppo.engines.verl_run import command, train

__all__ = ["command", "loss_mode", "train", "verl_methods", "verl_overrides"]
