"""Views of the list of runs that people saved by name, in one file of the home"""

import json
from collections.abc import Callable, Mapping

from src import paths
from src.errors import UserError
from src.files import alone, read_text, write_atomic

MAX_NAME, MAX_VIEWS = 60, 200

Query = dict[str, list[str]]  # parameters of an address


class BadView(UserError, ValueError):
    """A view cannot be saved under this name."""


def saved() -> dict[str, Query]:
    """{name: parameters of its address} of the saved views, by name; none where the file cannot be
    read."""
    try:
        found = json.loads(read_text(paths.views_file()))
        views = {
            str(name): {str(key): [str(v) for v in values] for key, values in query.items()}
            for name, query in found.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
    return dict(sorted(views.items(), key=lambda pair: pair[0].casefold()))


def save(name: str, query: Mapping[str, list[str]]) -> None:
    """Save a view, in the place of one of that name."""
    name = " ".join(name.split())
    if not name or len(name) > MAX_NAME:
        raise BadView(f"a view needs a name of up to {MAX_NAME} characters")

    def change(views: dict[str, Query]) -> None:
        if name not in views and len(views) >= MAX_VIEWS:
            raise BadView(f"there are {MAX_VIEWS} views already; delete one first")
        views[name] = dict(query)

    _change(change)


def delete(name: str) -> None:
    """Delete a saved view, if it is there."""
    _change(lambda views: views.pop(name, None))


def _change(change: Callable[[dict[str, Query]], object]) -> None:
    """Read, change and write the file under one lock: two tabs may save at once."""
    file = paths.views_file()
    with alone(file.with_suffix(".lock")):
        views = saved()
        change(views)
        write_atomic(file, json.dumps(views, indent=2, ensure_ascii=False) + "\n")
