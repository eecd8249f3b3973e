"""The checks of the queue at work: who was heard of lately, and whether another program does the same batches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gepp_audit.crontabs import lines
from gepp_audit.database import health, whole_queue
from gepp_audit.errors import OperatorError
from gepp_audit.queue.diagnosis import SILENT_SECONDS
from gepp_audit.queue.doctor.check import Finding, critical, ok, unknown, warning
from gepp_audit.queue.wording import ago, counted

if TYPE_CHECKING:
    from gepp_audit.queue.doctor.surroundings import Surroundings

#: a host that was not heard of for so long was taken out of service
_FORGOTTEN: Final = timedelta(days=7)
_SILENT: Final = timedelta(seconds=SILENT_SECONDS)
#: the platform's own cron and its route
_RIVAL: Final = re.compile(r"cron_process_audit_queue|transaction_audit/process_queue")
_RIVAL_WITHIN: Final = timedelta(days=7)


def runs(around: Surroundings) -> Finding:
    """Each host that runs the queue was heard of within five minutes."""
    moment, found = around.read(health.hosts)
    settings = around.settings
    here = settings.host or around.machine.host
    known = [host for host in found if moment - host.reported_at <= _FORGOTTEN]
    if not known:
        return critical(
            "No run of gepp-audit has ever reported." if not found else "No run has reported for a week.",
            'Look at the checks cron-daemon and crontab, then run "gepp-audit process-queue" once by hand.',
        )
    alive = [host for host in known if moment - host.reported_at <= _SILENT]
    told = "; ".join(f"{host.host} (version {host.version}) {ago(host.reported_at, moment)}" for host in known)
    if not alive:
        return critical(
            f"No host has reported for more than five minutes. Last heard of: {told}.",
            'Look at the checks cron-daemon and crontab on that host; "gepp-audit process-queue" runs once by hand.',
        )
    silent = [host.host for host in known if host not in alive]
    if silent:
        return warning(
            f"{', '.join(silent)} {'has' if len(silent) == 1 else 'have'} been silent for more than five minutes. "
            f"Last heard of: {told}.",
            "Run the doctor there. A host that was taken out of service is forgotten after a week.",
        )
    versions = {host.version for host in alive}
    if len(versions) > 1:
        return warning(
            f"Hosts run different versions: {told}.",
            "Bring all to the newest; versions may differ by one, for a while.",
        )
    own = "" if any(host.host == here for host in alive) else f" This host, {here}, is none of them."
    return ok(f"Last heard of: {told}.{own}")


def rival(around: Surroundings) -> Finding:
    """No other program settles our batches: the platform's own cron and its route are off."""
    seen = list(_rivals_here(around))
    if seen:
        return critical(
            f"The platform's own queue is not switched off: {'; '.join(seen)}.",
            "Remove it: it settles the same batches, and what gepp-audit paid for them is thrown away.",
        )
    try:
        moment, count, last = around.read(lambda connection: whole_queue.settled_by_others(connection, _RIVAL_WITHIN))
    except OperatorError as error:
        return unknown(f"No rival is seen on this machine, but {error.message}", error.fix)
    if count:
        when = "" if last is None else f", the last one {ago(last, moment)}"
        return critical(
            f"Somebody else settled {counted(count, 'batch', 'batches')} that gepp-audit had taken up{when}.",
            "Switch off the platform's own cron (cron_process_audit_queue), its schedule, and whoever calls its route "
            "process_queue, on every host.",
        )
    return ok("Nobody else settled a batch of ours within a week, and no rival is seen on this machine.")


def _rivals_here(around: Surroundings) -> Iterator[str]:
    """Lines and processes of this machine; not what they say, for a secret may stand in it."""
    for crontab in around.machine.crontabs():
        for job in lines.jobs(crontab.text, system=crontab.user is None):
            if _RIVAL.search(job.written):
                yield f"line {job.number} of {crontab.place} starts it"
    for process in around.machine.processes() or ():
        if any(_RIVAL.search(word) for word in process.command):
            yield f"the process {process.pid} ({process.name}) is it"
