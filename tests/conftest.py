"""Shared test set-up: shape annotations are checked; one hypothesis profile.

100 examples a property, the same ones every time, so that a red run can be repeated; `make test-fast` draws 25.
MINICPPO_EXAMPLES=1000 draws that many, and, above 100, other ones at every run.
"""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: results must not depend on the core count

import jaxtyping
import matplotlib
from hypothesis import Phase, settings

import tests.typecheck  # noqa: F401  (the hook finds it by its name)

gc.disable()  # until all is imported, below: a third of the time that it takes

# Every annotation in these packages becomes an assertion while the tests run. The hook must come before their
# first import, which is why no test set-up above this line may touch minicppo.
jaxtyping.install_import_hook(["minicppo.rules"], "tests.typecheck.checked")

matplotlib.use("Agg")
examples = int(os.environ.get("MINICPPO_EXAMPLES") or 100)
settings.register_profile(
    "minicppo", max_examples=examples, derandomize=examples <= 100, deadline=None, print_blob=True
)
settings.register_profile("unshrunk", settings.get_profile("minicppo"), phases=[Phase.generate])  # failures are wanted
settings.load_profile("minicppo")


def pytest_collection_finish():
    """What has been imported stays: the garbage collector need not look through it at every turn."""
    gc.freeze()
    gc.enable()
