"""The base model in the check before a launch: what no training could load, or adapt.

Reads the model's files, without the libraries that train.
"""

from src.config import RunConfig
from src.models.base_files import BaseFiles, BaseModelError
from src.models.base_problems import base_problem
from src.models.multi_lora.shapes import SHAPES
from src.training.packed.eligibility import files_of


def readable_base(config: RunConfig) -> BaseFiles:
    """The files of a run's base model. BaseModelError with the reason why no run could load it.

    Depends on model.name and model.revision alone. Downloads the small files of a model on the hub.
    """
    files = files_of(config)
    files.download()
    if problem := base_problem(files):
        raise BaseModelError(problem)
    return files


def target_problems(config: RunConfig) -> dict[str, str]:
    """{"lora.target_modules": sentence} if they name layers that the base model does not have.

    Empty where the files on this machine do not say which layers there are.
    """
    targets = config.lora.target_modules
    if not targets:
        return {}
    try:
        files = files_of(config)
        layers = files.linear_layers() or sorted(SHAPES.get(files.kind, ()))
    except BaseModelError:  # said of model.name
        return {}
    unknown = [name for name in targets if name not in layers]
    if not (layers and unknown):
        return {}
    return {
        "lora.target_modules": f"this model has no linear layer {', '.join(unknown)}; it has "
        f"{', '.join(layers)}"
    }
