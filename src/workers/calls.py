"""Does calls for a trainer: `python -m src.workers.calls`, see `call_pool`.

Its standard input is a socket that brings a function and its arguments each time, and takes what
the function returned or raised. Ends when the socket closes: the trainer exited.
"""

import os
import signal
from multiprocessing.connection import Connection

from src.runs import termination
from src.workers.call_pool import chain_of, parts_of, receive


def main() -> None:
    # A signal to the trainer's group is for the trainer, which may still have files to write.
    for number in termination.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with Connection(os.dup(0)) as trainer:
        while True:
            try:
                function, arguments = receive(trainer)
            except EOFError:
                return
            value, errors = None, list[BaseException]()
            try:
                value = function(*arguments)
            # Whatever it is: who asked has it raised there.
            except Exception as error:
                errors = chain_of(error)
            for part in parts_of((value, errors)):
                trainer.send_bytes(part)


if __name__ == "__main__":
    main()
