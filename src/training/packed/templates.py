"""The files that PEFT, transformers and PyTorch's optimizers write, without any of them

To import the first two takes longer than a short training, and for the first optimizer of a process
PyTorch imports its compiler. So what they write once is kept on the disk as text, and the values of
a run are put into it, while the installed packages are the same.
"""

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from src.file_cache import FileCache, key_of
from src.files import code_stamp
from src.models import utils as machine
from src.models.multi_lora.optimizer import OPTIMIZERS, Optimizer

ADAPTER_CONFIG, TRAINER_STATE = "adapter_config.json", "trainer_state.json"
KEPT = 2  # files of templates
_TORCH_NAMES = {optimizer.__name__: optimizer for optimizer in OPTIMIZERS.values()}


def write_file(name: str, values: Mapping[str, Any], folder: Path, cache_dir: Path | None) -> None:
    """Write ADAPTER_CONFIG or TRAINER_STATE into a folder, with these values in it."""
    text = templates(cache_dir)[name]
    document = json.loads(text) | values
    ends = "\n" if text.endswith("\n") else ""
    (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True) + ends)


def torch_states(
    optimizer: type[Optimizer], cache_dir: Path | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A parameter group in the state of torch's optimizer of this name, and the state of a LambdaLR
    over it, whose values are those of no run."""
    group, scheduler = json.loads(templates(cache_dir)[optimizer.__name__])
    return group, scheduler


@cache
def templates(cache_dir: Path | None) -> Mapping[str, str]:
    """{file: its text} as PEFT and transformers write it, and {optimizer: see `torch_states`}: as
    kept in `cache_dir`/templates, else anew, which imports them."""
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
    return {name: str(found[name]) for name in (ADAPTER_CONFIG, TRAINER_STATE, *_TORCH_NAMES)}


def _made() -> Mapping[str, str]:
    return _made_files() | {name: json.dumps(_made_states(o)) for name, o in _TORCH_NAMES.items()}


def _made_states(optimizer: type[Optimizer]) -> tuple[dict[str, Any], dict[str, Any]]:
    settings = optimizer(max_grad_norm=1, weight_decay=0).torch_settings()
    made = getattr(torch.optim, optimizer.__name__)([torch.zeros(1)], lr=1, **settings)
    scheduler = LambdaLR(made, lambda step: 1)
    (group,) = made.state_dict()["param_groups"]
    return group, scheduler.state_dict()


def _made_files() -> dict[str, str]:
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
