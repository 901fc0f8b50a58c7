"""`python -m minicppo`: the command without its script on the path."""

from minicppo.cli import main

main()
