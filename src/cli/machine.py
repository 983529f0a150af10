"""`spelltune machine`: its meters, what it costs, and the settings that say so."""

import time
from typing import Annotated, Any

import typer

from src.cli.options import AsJson
from src.cli.output import out, print_facts, print_json
from src.config import MachineSettings, by_name, change_machine, load_machine
from src.format import duration, setting_value
from src.runs import cost, idle
from src.runs import machine as this_machine
from src.runs.meters import Meters, Reader, gpu_facts, machine_facts

MOMENT = 0.3  # seconds over which the processor is watched

app = typer.Typer(
    help="Show the meters of this machine and what it costs, and change its settings."
)


@app.callback(invoke_without_command=True)
def machine(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the meters of this machine, what it costs, and its settings."""
    if context.invoked_subcommand:
        return None
    kept, found = load_machine(), read()
    if as_json:
        return print_json(document(kept) | {"meters": found.document()})
    gpus = [(f"{g} {name}", text) for g, own in gpu_facts(found).items() for name, text in own]
    print_facts([*gpus, *machine_facts(found), *money_facts(kept), *setting_facts(kept)])
    return None


def read() -> Meters:
    """The meters, of the processor over a moment."""
    reader = Reader()
    time.sleep(MOMENT)
    return reader.read()


# -1 is a value, to be refused with a sentence, and not an option.
@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    name: Annotated[
        str,
        typer.Argument(metavar="SETTING", help=", ".join(by_name(MachineSettings)) + "."),
    ],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="null is none.")],
    as_json: AsJson = False,
) -> None:
    """Change a setting of this machine, such as its price."""
    changed = change_machine({name: value})
    idle.keep_watching()
    if as_json:
        return print_json(document(changed))
    told = dict(setting_facts(changed))[name]
    out.print(f"{name} is {told}", highlight=False)
    return None


@app.command("keep-on")
def keep_on() -> None:
    """Keep an idle machine on: a countdown to the command of `when_idle` ends.

    It then has to be idle as long again.
    """
    idle.keep_on()
    kept = idle.settings()
    if kept is None:
        out.print("no command runs when this machine is idle", highlight=False)
    else:
        out.print(
            f"kept on: `{kept.command}` runs when nothing was going on for "
            f"{duration(kept.after_minutes * 60)}",
            highlight=False,
        )


def document(kept: MachineSettings) -> dict[str, Any]:
    """The machine as JSON holds it."""
    return {
        "settings": kept.model_dump(),
        "started_at": this_machine.started_at(),
        "spent": cost.spent(kept),
        "left": cost.left(kept),
        "seconds_left": cost.seconds_left(kept),
    }


def money_facts(kept: MachineSettings) -> list[tuple[str, str]]:
    """The money that the machine has cost so far, and that is left; nothing without a price."""
    enough = cost.seconds_left(kept)
    return cost.facts() + ([] if enough is None else [("enough for", duration(enough))])


def setting_facts(kept: MachineSettings) -> list[tuple[str, str]]:
    """Each setting and its value, by its dotted name."""
    values = kept.model_dump()
    return [(name, setting_value(value_of(values, name))) for name in by_name(MachineSettings)]


def value_of(values: dict[str, Any], name: str) -> Any:
    """A value by its dotted name; None where its section is not set."""
    found: Any = values
    for part in name.split("."):
        found = found[part] if found is not None else None
    return found
