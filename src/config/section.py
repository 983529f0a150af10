"""Section: what all groups of settings have in common."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from src.config.yaml_text import Written, plain


class Section(BaseModel):
    # allow_inf_nan: a learning rate of nan passes every bound.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """A number of YAML by the type of its field: where that is a text, as it was written."""
        if not isinstance(value, Written | list | dict):
            return value
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, dict):
            return plain(value) if kind == dict[str, float] | None else value
        if isinstance(value, list):
            if kind not in (list[str], list[str] | None):
                return value
            return [part.text if isinstance(part, Written) else part for part in value]
        return value.text if kind in (str, str | None) else value.plain()


ALL_LINEAR = "all-linear"  # PEFT's word for all linear layers but the output head


def layer_names(value: Any) -> Any:
    """The names in a list of layers; None for all of them."""
    if value in (ALL_LINEAR, [ALL_LINEAR]):
        return None
    if isinstance(value, str) or (isinstance(value, list) and ALL_LINEAR in value):
        raise ValueError(
            "a list of names of layers, such as [q_proj, v_proj], or all-linear alone for all "
            f"of them; got {value!r}"
        )
    return value
