"""The Modelfile by which Ollama asks an exported model as its run was trained. Imports no torch."""

from src.models.prompt_format import PromptFormat


def modelfile(
    file_name: str, form: PromptFormat, *, stop: str, bos: str | None, max_tokens: int
) -> str:
    """The Modelfile of a GGUF file in the same folder, with the prompt of this format.

    `bos` is the token that llama.cpp puts before a prompt, `max_tokens` the most that an answer
    has. Answers are greedy, without Ollama's own penalty on letters that come again.
    """
    around = list(form.around)
    if bos is not None:
        around[0] = around[0].removeprefix(bos)
    template = "{{ .Prompt }}".join(_literal(text) for text in around)
    return (
        f"FROM ./{file_name}\n"
        f'TEMPLATE """{template}"""\n'
        f'PARAMETER stop """{stop}"""\n'
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1\n"
        f"PARAMETER num_predict {max_tokens}\n"
    )


def _literal(text: str) -> str:
    """A text in a template of Go between three quotation marks."""
    return "".join({'"': '{{ `"` }}', "{": "{{ `{` }}"}.get(letter, letter) for letter in text)
