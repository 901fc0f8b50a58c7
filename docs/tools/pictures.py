"""Every committed picture that is drawn from committed results.

    python -m docs.tools.pictures     # draws them again (make figures)

The notebooks' pictures are drawn by the notebooks: `make notebooks`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
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


def draw_growth() -> Figure:
    return growth(json.loads((MEASURED / "end_to_end.json").read_text(encoding="utf-8")))


def draw_demo_llm() -> Figure:
    """The recorded run of `make demo-llm`."""
    return curves([load_run(MEASURED / "demo-llm")])


PICTURES: dict[str, Callable[[], Figure]] = {
    "docs/overview.png": overview,
    "docs/gates.png": gates,
    "docs/growth.png": draw_growth,
    "docs/demo-llm.png": draw_demo_llm,
}


def studies() -> Iterator[tuple[str, Path]]:
    """Each study with committed results: its file, relative to the repository, and the folder of the results."""
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        results = ROOT / load_study(path).results
        if (results / TABLE).is_file():
            yield str(path.relative_to(ROOT)), results


def main() -> None:
    for name, draw in PICTURES.items():
        print(save(draw(), ROOT / name))
    for config, results in studies():
        study = load_study(ROOT / config).model_copy(update={"results": str(results)})
        for path in write_report(study, f"python -m experiments study {config}"):
            print(path)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
