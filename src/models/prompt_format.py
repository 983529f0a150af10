"""How a question becomes a prompt, and where its answer ends: by a raw template or as a chat

A chat template is that of the base's own tokenizer, rendered as `apply_chat_template` does. It is
read from the base's files: the check before a launch and both engines take the same one. Imports no
torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from src.models.base_files import BaseFiles, BaseModelError

# Stand for the texts of a turn while a template is rendered: no template has them or changes them.
QUESTION, ANSWER = "spelltune0question0", "spelltune0answer0"
# For templates that tell the model the day: else a run would resume and be scored on other prompts.
DAY = datetime(2024, 7, 26)  # the one that Llama 3.2's template falls back to

Pairs = Sequence[tuple[str, str]]  # questions with their answers


class PromptError(BaseModelError):
    """A base whose chat template cannot be used as the settings ask."""


@dataclass(frozen=True)
class PromptFormat:
    """The text of a row: the prompt with its question, and what its answer begins and ends with."""

    around: tuple[str, ...]  # the prompt's text before and after the question
    before_answer: str = " "  # belongs to the answer's tokens
    end: str | None = None  # the token after the answer; None is the tokenizer's EOS
    is_chat: bool = False  # then the text has all special tokens: the tokenizer adds none
    strips: bool = False  # the template removes the spaces around a question

    def prompt(self, question: str) -> str:
        """The prompt with this question. Other braces of a raw template stay as they are."""
        return (question.strip() if self.strips else question).join(self.around)


def raw_format(template: str, examples: Pairs = ()) -> PromptFormat:
    """The format of a template with {question}, each prompt after these examples."""
    around = tuple(template.split("{question}"))
    own = PromptFormat(around)
    told = "".join(f"{own.prompt(question)} {answer}\n" for question, answer in examples)
    return PromptFormat((told + around[0], *around[1:]))


def prompt_format(
    template: str | None, system_prompt: str | None, base: BaseFiles, examples: Pairs = ()
) -> PromptFormat:
    """The format of a base's rows by a template with {question}; None takes the base's own chat
    template. `examples` are earlier turns. PromptError if the base has no chat template, or none
    for these turns."""
    if template is not None:
        return raw_format(template, examples)
    source = base.chat_template()
    if source is None:
        raise PromptError(
            f"data.template is chat, and the tokenizer of {base.name} has no chat template; take a "
            "chat model, or a template of your own that contains {question}"
        )
    special = frozenset(base.special_tokens().items())
    try:
        return _chat_format(source, special, tuple(base.added_tokens()), system_prompt, examples)
    except ValueError as error:
        why = " ".join(str(error).split())
        hint = "; leave data.system_prompt empty, or take" if system_prompt else "; take"
        raise PromptError(
            f"the chat template of {base.name} cannot be used: {why}{hint} a template of your own "
            "that contains {question}"
        ) from None


@lru_cache(maxsize=64)
def _chat_format(
    source: str,
    special: frozenset[tuple[str, str]],
    added_tokens: tuple[str, ...],
    system_prompt: str | None,
    examples: tuple[tuple[str, str], ...],
) -> PromptFormat:
    """The format of a chat template; ValueError says why it has none."""
    turns = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    for question, answer in examples:
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer})

    def rendered(question: str, answer: str | None = None) -> str:
        own = [{"role": "user", "content": question}]
        if answer is not None:
            own.append({"role": "assistant", "content": answer})
        return _render(source, turns + own, dict(special), for_answer=answer is None)

    prompt = rendered(QUESTION)
    if QUESTION not in prompt:
        raise ValueError("it does not show the question")
    if system_prompt and system_prompt.strip() not in prompt:
        raise ValueError("it does not show the system prompt")
    whole = rendered(QUESTION, ANSWER)
    head, found, tail = whole.partition(ANSWER)
    if not found:
        raise ValueError("it does not show the answer")
    # Between prompt and answer some templates have a space. What else stands there, such as an
    # empty thought, only the conversations have that are over.
    before = head.removeprefix(prompt) if head.startswith(prompt) else ""
    before = "" if before.strip() else before
    ends = [(tail.find(token), -len(token), token) for token in added_tokens if token in tail]
    return PromptFormat(
        tuple(prompt.split(QUESTION)),
        before_answer=before,
        end=min(ends)[2] if ends else None,
        is_chat=True,
        strips=rendered(f" {QUESTION} ") == prompt,
    )


def _render(
    source: str, turns: list[dict[str, str]], special: dict[str, str], *, for_answer: bool
) -> str:
    """The text of a conversation as transformers renders it, without a model's thinking."""
    from jinja2.exceptions import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        options: dict[str, Any] = {
            "enable_thinking": False,
            "strftime_now": DAY.strftime,
            "date_string": DAY.strftime("%d %b %Y"),
            **special,
        }
        found: Any = render_jinja_template(
            conversations=[turns],
            chat_template=source,
            add_generation_prompt=for_answer,
            **options,
        )
    except (TemplateError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return str(found[0][0])  # of the first conversation
