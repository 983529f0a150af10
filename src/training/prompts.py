"""The prompt format of a run, by its settings and the files of its base model"""

from src.config import CHAT, RunConfig
from src.models.prompt_format import Pairs, PromptFormat, prompt_format
from src.training.packed.eligibility import files_of


def format_of(config: RunConfig, examples: Pairs = ()) -> PromptFormat:
    """The format of a run's rows, each after these examples; PromptError where there is none."""
    data = config.data
    template = None if data.template == CHAT else data.template
    return prompt_format(template, data.system_prompt, files_of(config), tuple(examples))
