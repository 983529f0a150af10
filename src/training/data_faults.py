"""The faults of JSON and CSV texts, in words with the line and the sign"""

import csv
import json
import re


def json_problem(error: json.JSONDecodeError, line: int | None = None) -> str:
    """The fault of a JSON text, or of one line of a file."""
    place = error.lineno if line is None else line
    return f"line {place:,} is not JSON: {error.msg.lower()} at sign {error.colno:,}"


def csv_problem(error: str, text: str, begin: int, end: int) -> str:
    """The fault of a row that goes from line `begin` to `end`, in place of the csv module's
    words."""
    if "expected after" in error:
        lines = text.split("\n")
        # A quote that closes a cell, and what follows it in place of a comma.
        found = re.search(r'[^,"]"([^,"\r\n])', lines[end - 1] if end <= len(lines) else "")
        sign = f" {found[1]!r}" if found else " another sign"
        return (
            f"line {end:,} has{sign} after a closing quote, where a comma or the line's end has to "
            'be; write a quote inside of a cell twice ("")'
        )
    if "end of data" in error:
        return f'the cell that begins with a quote (") in line {begin:,} is never closed'
    if "field larger" in error:
        return f"line {begin:,} has a cell of more than {csv.field_size_limit():,} characters"
    if "new-line" in error:
        return f"line {end:,} has a line break (\\r) inside of a cell without quotes"
    return f"line {end:,}: {error}"
