"""Notes for the user on a preview of a run's data

Apart from `data_preview`: who has a preview from the disk needs no pandas to tell of it.
"""

from collections.abc import Mapping
from typing import Any

from src.format import counted

FEW_WORDS = 50  # of a split
SHARE_MISSED = 0.01  # of the right words that are asked for, which needs no note


def preview_counts(preview: Mapping[str, Any]) -> list[str]:
    """Sentences on the sizes of the parts of a `preview`'s data."""
    told = [
        f"rows of {task}: " + ", ".join(f"{count:,} {split}" for split, count in counts.items())
        for task, counts in preview["rows_by_task"].items()
    ]
    if seen := preview["multi_token_words"]:
        words = ", ".join(f"{count:,} {split}" for split, count in seen["words"].items())
        told.append(
            f"words of more than one token: {words}; {seen['left_out']:,} words of the built-in "
            "tasks are one token and not asked"
        )
    told += [
        f"left out of the suite {name}: {counted(suite['left_out'], 'row')} whose words stand in "
        "the training rows"
        for name, suite in preview.get("suites", {}).items()
        if suite["left_out"]
    ]
    return told


def preview_notes(preview: Mapping[str, Any]) -> list[str]:
    """Warnings about the data of a `preview`; none of them prevents a launch."""
    notes = _of_base(preview.get("base_model"))
    notes += _of_tokens(preview["multi_token_words"])
    notes += _of_corrections(preview["corrections"])
    if lost := preview["lost"]["count"]:
        first = preview["lost"]["examples"][0]
        notes.append(
            f"the tokenizer does not give back {counted(lost, 'answer')} as written, such as "
            f"{first['answer']!r}, of which {first['returned']!r} is left; what is left counts as "
            "the right answer"
        )
    if preview["not_composed"]:
        notes.append(
            f"{counted(preview['not_composed'], 'answer')} in another Unicode form than NFC; "
            "all texts are compared in NFC"
        )
    if preview["labels"]:
        notes.append(_of_labels(preview))
    elif preview["cut_by"] == "question":
        notes.append(
            "there are too few different answers to give each split its own, so the splits are cut "
            "by question"
        )
    for split, count in preview["unseen_labels"].items():
        rows = preview["rows"][split]
        notes.append(
            f"{count:,} of {rows:,} {split} rows have a label that no training row has, so they "
            "cannot be answered right"
        )
    what = "questions" if preview["labels"] else "words"
    notes += [
        f"{count:,} {what} are in both {pair.replace('/', ' and ')}, so scores on them say little"
        for pair, count in preview["leaks"].items()
    ]
    if preview["duplicates"]:
        notes.append(f"{preview['duplicates']:,} duplicate rows are left out")
    return notes


def _of_base(record: Mapping[str, Any] | None) -> list[str]:
    """A note where the weights of the base model were quantized before they were read."""
    if record is None or record["quantization"] in ("F32", "F16", "BF16"):
        return []
    return [
        f"{record['file']} was quantized to {record['quantization']}: it is trained in 16 or 32 "
        "bits, from weights that were rounded so"
    ]


def _of_tokens(seen: Mapping[str, Any]) -> list[str]:
    if not seen:
        return []
    counts = seen["words"]
    least = min(counts, key=counts.__getitem__)
    if counts[least] >= FEW_WORDS:
        return []
    return [
        f"{counted(counts[least], 'word')} of more than one token in the {least} split: scores "
        "on so few say little"
    ]


def _of_corrections(seen: Mapping[str, Any]) -> list[str]:
    """A note where there are fewer right words than were asked for."""
    if not seen or seen["asked"] is None:
        return []
    right = seen["already right"]
    rows = right + seen["misspelled"]
    if right >= (seen["asked"] - SHARE_MISSED) * rows:
        return []
    return [
        f"data.right_words asks for {seen['asked']:.1%} of the corrections in training, and there "
        f"are right words for {right / rows:.1%}: {right:,} of {rows:,} rows"
    ]


def _of_labels(preview: Mapping[str, Any]) -> str:
    cut = ", and the splits are cut by question, not by answer" if preview["cut_by"] else ""
    return (
        f"the {preview['labels']:,} different answers look like labels, as the questions do not "
        f"show how they are spelled: scores say how often the label is right{cut}"
    )
