"""Values that derive from the log and from the call's place: they write nothing and are the same in every pass."""

import uuid
from datetime import datetime
from random import Random

from perdure.core.instant import moment
from perdure.engine.everywhere import Everywhere
from perdure.engine.scope import branch_here
from perdure.ids import derived


class Derived(Everywhere):
    """The part of a context that stands for the clock and for chance."""

    def now(self) -> datetime:
        """The instant of the last event that this pass has heard: the same in every pass. Not for durations."""
        branch_here(self._bench.branches)
        return moment(self._bench.journal.now)

    def random(self) -> float:
        """A number in [0, 1): the same in every pass, another one at each call."""
        return float(self._drawn("$random").random())

    def uuid(self) -> str:
        """A UUID (version 4): the same in every pass, another one at each call."""
        return str(uuid.UUID(int=self._drawn("$uuid").getrandbits(128), version=4))

    def _drawn(self, family: str) -> Random:
        branch = branch_here(self._bench.branches)
        return Random(derived(family, self.job_id, branch.path, str(branch.occurrence(family))))
