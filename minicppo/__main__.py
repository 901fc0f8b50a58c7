"""The command, also as `python -m minicppo`: Ctrl-C while its parts are still being imported is no traceback."""

import sys


def main() -> None:
    """The command line."""
    try:
        from minicppo.cli import main as command
    except KeyboardInterrupt:
        print("\nStopped before anything was begun.", file=sys.stderr)
        raise SystemExit(130) from None
    command()


if __name__ == "__main__":
    main()
