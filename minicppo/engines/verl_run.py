"""A run under verl: its data, its command, its output. verl itself runs in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minicppo.engines.verl_config import verl_overrides
from minicppo.engines.verl_data import write_data
from minicppo.rl.config import ConfigError, RunConfig
from minicppo.rl.run_dir import RunDir

MODULE = "verl.trainer.main_ppo"


def command(config: RunConfig, run_dir: Path) -> list[str]:
    """What starts verl, argument by argument.

    Raises:
        ConfigError: a setting that verl cannot carry out, with the way out.
    """
    return [sys.executable, "-m", MODULE, *verl_overrides(config, run_dir)]


def train(config: RunConfig, run_dir: Path, say: Callable[[str], None] = print) -> int:
    """Write the run's settings and data, start verl, pass on its output, and return its exit status.

    The output also goes to RUN/verl.log. Called again with the same settings, verl goes on from its newest checkpoint.

    Raises:
        ConfigError: the folder holds a run with other settings, or verl cannot carry these out.
    """
    arguments = command(config, run_dir)
    settings = run_dir / "config.yaml"
    if settings.exists() and settings.read_text(encoding="utf-8") != config.to_yaml():
        raise ConfigError(f"{run_dir} holds a run with other settings: remove it, or give this one another --run-dir")
    run = RunDir.open(run_dir) if settings.exists() else RunDir.create(run_dir, config)
    with run.locked():
        for name, count in write_data(config, run_dir).items():
            say(f"{name}: {count} problems")
        return stream(arguments, run_dir / "verl.log", say)


def stream(arguments: list[str], log: Path, say: Callable[[str], None]) -> int:
    """Run a command, its lines to `say` and appended to `log`; its exit status, as a shell would give it."""
    with (
        open(log, "a", encoding="utf-8") as file,
        subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                say(line.rstrip("\n"))
        except KeyboardInterrupt:  # the terminal has sent it to verl too, which now shuts its workers down
            process.wait()
            raise
    return process.returncode if process.returncode >= 0 else 128 - process.returncode
