"""The files that PEFT and transformers write beside an adapter, without either

To import the two takes longer than a short training. So the text that they write once is kept on
the disk, and the values of a run are put into it, while the installed packages are the same.
"""

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from src.file_cache import FileCache, key_of
from src.files import code_stamp
from src.models import utils as machine

ADAPTER_CONFIG, TRAINER_STATE = "adapter_config.json", "trainer_state.json"
KEPT = 2  # files of templates


def write_file(name: str, values: Mapping[str, Any], folder: Path, cache_dir: Path | None) -> None:
    """Write ADAPTER_CONFIG or TRAINER_STATE into a folder, with these values in it."""
    text = templates(cache_dir)[name]
    document = json.loads(text) | values
    ends = "\n" if text.endswith("\n") else ""
    (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True) + ends)


@cache
def templates(cache_dir: Path | None) -> Mapping[str, str]:
    """{file: its text} as PEFT and transformers write it: as kept in `cache_dir`/templates, else
    anew, which imports them."""
    kept = FileCache(cache_dir and cache_dir / "templates", KEPT)
    key = key_of(code_stamp(), machine.versions())
    found = kept.read(key, _read)
    if found is None:
        found = _made()
        kept.write(key, lambda file: file.write_text(json.dumps([found, key_of(found)])))
    return found


def _read(file: Path) -> Mapping[str, str]:
    found, digest = json.loads(file.read_text())
    if key_of(found) != digest:
        raise ValueError("this file is damaged")
    return {name: str(found[name]) for name in (ADAPTER_CONFIG, TRAINER_STATE)}


def _made() -> Mapping[str, str]:
    from transformers.trainer_callback import TrainerControl, TrainerState

    from src.models.spelling_model import lora_config

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = lora_config(
            r=1, alpha=1, dropout=0, targets=[], bias="none", conv1d=False, inference_mode=True
        )
        config.save_pretrained(name)
        # Annotated as a list, and a dict once it is made.
        control: Any = {"TrainerControl": TrainerControl().state()}
        TrainerState(stateful_callbacks=control).save_to_json(str(folder / TRAINER_STATE))
        return {file: (folder / file).read_text() for file in (ADAPTER_CONFIG, TRAINER_STATE)}
