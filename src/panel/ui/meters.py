"""The machine's meters and its money, as every page shows them."""

import threading
import time
from html import escape

from src.panel.ui import navigation
from src.runs import cost, meters
from src.runs.meters import Meters, Reader

FRESH_SECONDS = 2.0  # readers of several pages at once cost one reading

_lock = threading.Lock()
_reader = Reader()
_last: Meters | None = None


def reading() -> Meters:
    """The meters of the last two seconds."""
    global _last
    with _lock:
        if _last is None or not 0 <= time.time() - _last.at < FRESH_SECONDS:
            _last = _reader.read()
        return _last


def line() -> str:
    """HTML: the meters and the money in a line, which leads to the Machine page."""
    found = reading()
    parts = [
        f"{gpu} {' · '.join(text for _, text in facts)}"
        for gpu, facts in meters.gpu_facts(found).items()
    ]
    parts += [f"{name} {text}" for name, text in meters.machine_facts(found)]
    parts += [f"{text} {name}" for name, text in cost.facts()]
    items = "".join(f"<span>{escape(part)}</span>" for part in parts)
    link = navigation.link("machine", "Machine")
    return f'<p class="meters">{link}{items}</p>'
