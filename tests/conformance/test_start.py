"""How a run begins beside others."""

from __future__ import annotations

from gepp_audit.database import runs
from gepp_audit.queue import liveness, start
from gepp_audit.queue.summary import Summary
from tests.support.platforms import Platform


def test_a_run_whose_beginning_is_repeated_is_not_busy_with_itself(platform: Platform) -> None:
    identity = liveness.identify("h1")
    summary = Summary(run_id=identity.run_id)
    for _ in range(2):  # the reply of the first commit was lost
        assert platform.database.write(lambda connection: start.begin(connection, identity, summary)) == (None, [], 0)
    [(alone, _)] = platform.database.read(lambda connection: runs.unfinished(connection, "h1"))
    assert alone.run_id == identity.run_id
    other = liveness.identify("h1")
    busy, _, _ = platform.database.write(lambda connection: start.begin(connection, other, summary))
    assert busy == identity.run_id
