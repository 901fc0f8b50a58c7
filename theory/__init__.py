"""Derivations, verdicts and the programme that checks them: `python -m theory.verify`."""
