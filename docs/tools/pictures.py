"""Every committed picture that is drawn from committed results.

    python -m docs.tools.pictures     # draws them again (make figures)

The notebooks' pictures are drawn by the notebooks: `make notebooks`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from docs.tools.gates import gates
from docs.tools.growth import growth
from docs.tools.overview import overview
from experiments.study.plan import load_study
from experiments.study.study import TABLE, write_report
from minicppo.plots.curves import curves
from minicppo.plots.runs import load_run
from minicppo.plots.style import save

ROOT = Path(__file__).parents[2]
MEASURED = ROOT / "experiments" / "benchmarks" / "results"


def draw_demo_llm() -> Figure:
    """The recorded run of `make demo-llm`."""
    return curves([load_run(MEASURED / "demo-llm")])


PICTURES: dict[str, Callable[[], Figure]] = {
    "docs/overview.png": overview,
    "docs/gates.png": gates,
    "docs/growth.png": growth,
    "docs/demo-llm.png": draw_demo_llm,
}


def main() -> None:
    for name, draw in PICTURES.items():
        print(save(draw(), ROOT / name))
    for config in sorted((ROOT / "configs").glob("*.yaml")):
        study = load_study(config)
        results = ROOT / study.results
        if (results / TABLE).is_file():
            study = study.model_copy(update={"results": str(results)})
            for path in write_report(study, f"python -m experiments study configs/{config.name}"):
                print(path)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
