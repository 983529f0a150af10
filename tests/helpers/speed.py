"""How slow this machine is: limits of seconds are those of a fast one, times this."""

import time

FAST_SECONDS = 0.03  # for the loop below, on the machine whose limits the tests name


def slowness() -> float:
    """Processor time of a fixed loop of Python against that of a fast machine; at least 1."""

    def loop() -> float:
        began = time.process_time()
        total = 0
        for number in range(600_000):
            total += number * number % 7
        return time.process_time() - began

    return max(1.0, min(loop() for _ in range(3)) / FAST_SECONDS)
