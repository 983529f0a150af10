"""Which settings the packed engine trains. Imports no torch: a launch asks before it loads."""

from src.config import RunConfig


def packed_problems(config: RunConfig) -> dict[str, str]:
    """A sentence for each setting that the packed engine cannot follow: {setting: sentence}.

    The base model's shape is seen only when it is loaded (`packed_base.read_base`).
    """
    problems = {}
    if config.model.load_in_4bit:
        problems["model.load_in_4bit"] = (
            "the packed engine has no 4-bit base; set it to false, or take engine trl"
        )
    if config.lora.bias != "none":
        problems["lora.bias"] = (
            f"the packed engine trains no biases; set it to none instead of {config.lora.bias}, or "
            "take engine trl"
        )
    if config.training.precision == "fp16":
        problems["training.precision"] = (
            "the packed engine does not scale losses for fp16; take auto or bf16, or engine trl"
        )
    if config.backend == "unsloth":
        problems["backend"] = (
            "the packed engine computes the base by itself, without Unsloth; take auto or peft, or "
            "engine trl"
        )
    return problems
