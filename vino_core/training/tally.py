"""How many examples all processes together did not use as they are, each counted once."""

from __future__ import annotations

from collections.abc import Mapping

from .feed import Noted
from .team import Team


class Tally:
    """Distinct examples on each of some lists, which every process has of its own.

    Processes may meet the same example. They tell each other which ones they met, and only when one of them has new
    ones: `new` rides along with what a step exchanges anyway.
    """

    def __init__(self, lists: Mapping[str, Noted], team: Team) -> None:
        self._lists, self._team = lists, team
        self._told = dict.fromkeys(lists, 0)
        self._found = dict(self._told)
        self._known: dict[str, set[tuple[str, int]]] = {name: set() for name in lists}

    def new(self) -> int:
        """How many examples of this process the others were not told of."""
        self._found = {name: len(noted) for name, noted in self._lists.items()}
        return sum(self._found.values()) - sum(self._told.values())

    def counts(self, anyone: bool) -> dict[str, int]:
        """How many there are on each list. `anyone`: whether `new` was above 0 on any process; all say the same."""
        if anyone:
            # Threads that read ahead may add to a list meanwhile: those come with a later step.
            own = {name: list(noted)[self._told[name] : self._found[name]] for name, noted in self._lists.items()}
            for told in self._team.all_objects(own):
                for name, examples in told.items():
                    self._known[name].update(examples)
            self._told = dict(self._found)
        return {name: len(known) for name, known in self._known.items()}
