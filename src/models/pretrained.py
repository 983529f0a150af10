"""Reading configurations, tokenizers and models through transformers, with readable errors.

Imports no torch: the check before a launch takes the sentences of its errors from here.
"""

from pathlib import Path
from typing import Any

from src.models.hub import NOT_REACHED


def from_pretrained(kind: Any, name: str, revision: str | None, **options: Any) -> Any:
    """`kind.from_pretrained(name)`; ModelError with one sentence where it fails."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    from src.models.utils import ModelError

    try:
        return kind.from_pretrained(name, revision=revision, trust_remote_code=False, **options)
    except RuntimeError as error:
        # Others are of memory or of the device. transformers prints the shapes, and says none.
        if "ignore_mismatched_sizes" not in str(error):
            raise
        why = "its weights have other shapes than its config.json says; download it again"
        raise ModelError(f"base model {name!r} cannot be read: {why}") from error
    except (
        OSError, ValueError, KeyError, TypeError, StrictDataclassError, SafetensorError
    ) as error:  # fmt: skip
        raise ModelError(why_unreadable(name, revision, error)) from error


def why_unreadable(name: str, revision: str | None, error: Exception) -> str:
    """One sentence that says why a model could not be read, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    where = f"base model {name!r}" + (f" at revision {revision!r}" if revision else "")

    def came_from(*kinds: type[BaseException]) -> bool:
        return any(isinstance(c, kinds) for c in causes)

    if "trust_remote_code" in str(error):
        return f"{where} brings its own code, which Spelltune never runs; choose another model"
    if Path(name).exists():
        return f"{where} cannot be read: {one_line(error)}"
    if came_from(GatedRepoError):
        return f"{where} asks for its licence first: accept it on the hub, then `hf auth login`"
    if came_from(RevisionNotFoundError):
        return f"{where} is not on the hub: it has no such revision"
    if came_from(RepositoryNotFoundError):
        return f"{where} was found neither on this machine nor on the hub; check its name"
    if came_from(HFValidationError):
        return f"{where} was not found: there is no such folder, and it is no hub id"
    if came_from(LocalEntryNotFoundError, OfflineModeIsEnabled) or "connect" in str(error):
        return (
            f"{where} is not on this machine, and {NOT_REACHED}; connect this machine, or take "
            "spelltune-tiny, which ships with Spelltune"
        )
    return f"{where} cannot be read: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """An error's message on one line of at most 300 characters, or its class if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def attention_of(config: Any) -> str | None:
    """transformers' attention that computes a model of this configuration; None: its default.

    PyTorch's own attention leaves out the bound of Gemma 2's attention scores without a word.
    """
    bound = config.model_type == "gemma2" and config.attn_logit_softcapping
    return "eager" if bound else None
