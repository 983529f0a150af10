"""Converts a GGUF file to a base model: `python -m src.workers.convert FILE`."""

import os
import sys
from pathlib import Path

from src.errors import UserError


def main(file: str) -> int:
    os.umask(0o077)
    from src.models.gguf.convert import convert

    try:
        convert(Path(file))
    except UserError as error:
        # Its caller shows what comes on standard output; libraries print on standard error.
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
