"""The type checker of the import hook: beartype, with an int accepted where a float is annotated, as PEP 484 says."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
