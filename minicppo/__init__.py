"""minicppo: CPPO (arXiv 2606.10968) to learn, check, use and reproduce."""

__version__ = "0.1.0"
