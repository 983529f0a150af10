"""Sentences on what keeps configs from being compared: lost seeds, and data that changed."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from src.config import DataConfig, stored_values, trained_on
from src.store.tables import Run, Status


class SeedGroup(Protocol):
    """Runs of one config, as `comparison.Group` holds them."""

    @property
    def name(self) -> str: ...
    @property
    def runs(self) -> tuple[Run, ...]: ...
    @property
    def seeds(self) -> tuple[Run, ...]: ...
    @property
    def lost(self) -> tuple[Run, ...]: ...


def lost_seeds(groups: Iterable[SeedGroup]) -> Iterator[str]:
    """Sentences on the seeds of each group that have no result."""
    for group in groups:
        if not group.lost:
            continue
        ends = (
            f"seed {run.config['training']['seed']} "
            f"{'was pruned' if run.status == Status.COMPLETED else run.status}"
            for run in group.lost
        )
        yield (
            f"{group.name} has {len(group.seeds)} of {len(group.seeds) + len(group.lost)} seeds "
            f"({', '.join(ends)}); the mean of those that are left may be that of the lucky ones"
        )


def changed_data(groups: Iterable[SeedGroup]) -> Iterator[str]:
    """Sentences on data that were not the same in all groups though they have one name."""
    rows = [f"data.{name}" for name in DataConfig.row_settings()]
    named: dict[tuple[str, str], dict[object, list[str]]] = {}
    for group in groups:
        values = stored_values(group.runs[0].config)
        data = group.runs[0].config["data"]
        # Configs that ask for other rows have other data, which is no change of them.
        models = ["model.name", "model.revision"] if values["data.multi_token_words"] else []
        asked = repr([values.get(one) for one in [*rows, *models]])
        name = data.get("path") or data.get("hub_id") or trained_on(data)
        found = [run.used.get("data_fingerprint") for run in group.runs]
        if known := next((one for one in found if one), None):
            named.setdefault((str(name), asked), {}).setdefault(known, []).append(group.name)
    for (name, _), versions in named.items():
        if len(versions) > 1:
            sides = "; ".join(", ".join(names) for names in versions.values())
            yield f"{name} was not the same for all: it changed between {sides}"
