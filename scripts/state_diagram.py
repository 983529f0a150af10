"""Writes the state diagram of docs/architecture.md from the transitions that the code allows.

python -m scripts.state_diagram
"""

from functools import reduce
from pathlib import Path

from src.store.status import TRANSITIONS
from src.store.tables import ACTIVE, Status

FILE = Path(__file__).parents[1] / "docs" / "architecture.md"
BEGIN, END = "<!-- state diagram: begin -->\n", "<!-- state diagram: end -->\n"

LABELS = {
    (Status.QUEUED, Status.STARTING): "a slot is free",
    (Status.QUEUED, Status.CANCELLED): "stop",
    (Status.QUEUED, Status.FAILED): "its supervisor did not start twice",
    (Status.STARTING, Status.RUNNING): "first metric",
    (Status.STARTING, Status.STOPPING): "stop",
    (Status.STARTING, Status.QUEUED): "its trainer left before it read the run",
    (Status.RUNNING, Status.STOPPING): "stop",
    (Status.STOPPED, Status.QUEUED): "resume",
    (Status.FAILED, Status.QUEUED): "resume, heal or retry",
    (Status.INTERRUPTED, Status.QUEUED): "resume",
    (Status.CANCELLED, Status.QUEUED): "its sweep was given more budget",
}
# From each active status.
END_LABELS = {
    Status.COMPLETED: "max_steps, early stopping or pruned",
    Status.STOPPED: "stopped",
    Status.FAILED: "an error",
    Status.INTERRUPTED: "its processes are gone",
}


def diagram() -> str:
    """TRANSITIONS as a Mermaid state diagram; what every active status allows is drawn once."""
    shared = reduce(frozenset.intersection, (TRANSITIONS[status] for status in ACTIVE))
    pairs = [(a, b) for a in Status for b in Status if b in TRANSITIONS[a]]
    inner = [(a, b) for a, b in pairs if a in ACTIVE and b in ACTIVE]
    outer = [(a, b) for a, b in pairs if (a, b) not in inner]
    lines = ["stateDiagram-v2", "  [*] --> QUEUED: launch", "  state active {"]
    lines += [f"    {a} --> {b}: {LABELS[a, b]}" for a, b in inner]
    lines += ["  }"]
    lines += [f"  active --> {b}: {END_LABELS[b]}" for b in Status if b in shared]
    lines += [
        f"  {a} --> {b}: {LABELS[a, b]}" for a, b in outer if not (a in ACTIVE and b in shared)
    ]
    return "\n".join(lines)


def with_diagram(text: str) -> str:
    """The text with the diagram of today between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}```mermaid\n{diagram()}\n```\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(with_diagram(FILE.read_text()))
