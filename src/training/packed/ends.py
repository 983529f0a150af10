"""The ends of a pack's runs, told in their order, each once the run's jobs are done."""

from collections.abc import Callable, Sequence

from src.training.background import Background, Jobs
from src.training.packed.run import End


class Ends:
    """Takes the ends of runs and passes them on, beside the training."""

    def __init__(self, background: Background, ended: Callable[[Sequence[End]], None]):
        self.outcomes: list[End] = []
        self._ended = ended
        self._queue = background.queue()  # one after the other

    def put(self, ends: Sequence[End], jobs: Sequence[Jobs] = ()) -> None:
        """Tell that runs ended, once the `jobs` of each are done; one that fails makes its run a
        failure."""
        first = len(self.outcomes)
        self.outcomes += ends

        def end() -> None:
            for place, own in enumerate(jobs, start=first):
                spec, outcome = self.outcomes[place]
                try:
                    own.wait()
                # Whatever it is: alone, the run would end with this error.
                except Exception as error:
                    if not isinstance(outcome, Exception):
                        self.outcomes[place] = spec, error
            self._ended(self.outcomes[first : first + len(ends)])

        self._queue.put(end)

    def wait(self) -> None:
        """Return once all of them were told."""
        self._queue.wait()
