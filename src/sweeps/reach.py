"""The files that a sweep of a reader of the panel, or of a client over HTTP, may name"""

from src.config import load_config, names_file
from src.runs import reach
from src.sweeps.file import Categorical, SweepConfig, base_config


def out_of_reach(sweep: SweepConfig) -> dict[str, str]:
    """{field: why it is refused} of files outside the folders that readers may use."""
    base = base_config(sweep)
    found = reach.out_of_reach(base, load_config(preset=sweep.base.preset))
    problems = {f"base.overrides.{name}": text for name, text in found.items()}
    suites = sweep.space.get("evaluation.suites")
    tried = suites.values if isinstance(suites, Categorical) else []
    wrong = ["evaluation.suites"] if any(names_file(one) for each in tried for one in each) else []
    for name in [*wrong, *({"data.path"} & sweep.space.keys())]:
        problems[f"space.{name}"] = "is for sweeps that are launched from the command line"
    return problems
