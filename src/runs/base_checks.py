"""The base model in the check before a launch: what no training could load, or adapt.

Reads the model's files, without the libraries that train.
"""

from src.config import RunConfig
from src.models.base_files import BaseFiles, BaseModelError
from src.models.base_problems import base_problem
from src.models.gguf.problems import gguf_problem
from src.models.multi_lora.shapes import SHAPES
from src.runs import spawn
from src.training.packed.eligibility import files_of


def readable_base(config: RunConfig) -> BaseFiles:
    """The files of a run's base model. BaseModelError with the reason why no run could load it.

    Depends on model.name and model.revision alone. Downloads the small files of a model on the hub,
    and has a GGUF file converted.
    """
    have_converted(config)
    files = files_of(config)
    files.download()
    if problem := base_problem(files):
        raise BaseModelError(problem)
    return files


def have_converted(config: RunConfig) -> None:
    """Have a process convert a base model that is a GGUF file, which needs torch, unless it was
    before. BaseModelError says why it cannot be."""
    files = files_of(config)
    if files.gguf is None or files.folder is not None:
        return
    if problem := gguf_problem(files.gguf):  # in a second, and without that process
        raise BaseModelError(problem)
    # It must not take the GPU from a training, and needs none.
    done = spawn.run(spawn.Worker.CONVERT, "", str(files.gguf.absolute()), CUDA_VISIBLE_DEVICES="")
    if done.returncode == 0:
        return
    told = done.stdout.strip().splitlines()
    if done.returncode == 1 and told:
        raise BaseModelError(told[-1])
    why = (
        "it was killed, as happens where memory ends"
        if done.returncode < 0
        else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
    )
    raise BaseModelError(f"{files.name} was not converted: {why}")


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
