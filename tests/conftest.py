"""Shared test set-up: shape annotations are checked, hypothesis prints what reproduces a failure."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: results must not depend on the core count

import jaxtyping
import matplotlib
from hypothesis import settings

import tests.typecheck  # noqa: F401  (the hook finds it by its name)

# Every annotation in these packages becomes an assertion while the tests run. The hook must come before their
# first import, which is why no test set-up above this line may touch minicppo.
jaxtyping.install_import_hook(["minicppo.rules"], "tests.typecheck.checked")

matplotlib.use("Agg")
fixed = "MINICPPO_NEW_EXAMPLES" not in os.environ  # a red run can be repeated; set it to draw other examples
settings.register_profile("minicppo", deadline=None, print_blob=True, derandomize=fixed)
settings.load_profile("minicppo")
