"""Describes wrong answers for a trainer: `python -m src.workers.kinds`.

Each line of standard input is a JSON list of [expected, predicted]; each line of the answer a list
of the fields of `Description`. Ends when its standard input closes: the trainer exited.
"""

import json
import sys

from src.analysis.kinds import describe_each


def main() -> None:
    for line in sys.stdin.buffer:
        answers = [(expected, predicted) for expected, predicted in json.loads(line)]
        sys.stdout.buffer.write(json.dumps(describe_each(answers)).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
