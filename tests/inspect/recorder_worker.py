"""One rank of the two-rank test, started by torchrun: `recorder_worker.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch

from minicppo.inspect import Recorder
from tests.engines.trl_setup import tiny_policy, trainer_of

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    trainer = trainer_of(tiny_policy(), folder / "run", max_steps=2, logging_steps=1, num_iterations=2)
    Recorder(folder / "log", every=1, rows=None).attach(trainer)
    trainer.train()
    if trainer.accelerator.is_main_process:
        (folder / "history.json").write_text(json.dumps(trainer.state.log_history))
    torch.distributed.destroy_process_group()
