"""Who this process is, and whether another process of this host is gone.

A pid alone is reused; together with its start time it names one process, inside one pid namespace of one boot. Two
containers that share a host name differ in the namespace, and then nothing is said. Nor is anything of a process of
another user that /proc hides (its option `hidepid`, `ProtectProc=` of a systemd unit): the kernel still tells that
there is one.

The machines in which a cloud runs functions may be copies of one picture: alike in name, boot id, namespace and even
pids. There whoever starts the run names its *sandbox*, which then belongs to the namespace, so that sandboxes are to
each other what hosts are. A process of a sandbox does one run after the other: what an earlier one of it left open is
over.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final
from uuid import uuid4

from gepp_audit import __version__
from gepp_audit.model import RunIdentity

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PID_NAMESPACE: Final = Path("/proc/self/ns/pid")
_PROC: Final = Path("/proc")


def identify(host: str | None, sandbox: str | None = None) -> RunIdentity:
    """This process under a fresh run id. `host`: None is the host's own name. `sandbox`: see the module."""
    namespace = _namespace()
    return RunIdentity(
        run_id=uuid4().hex,
        host=host_name(host),
        boot_id=_read(_BOOT_ID),
        pid_namespace=namespace if sandbox is None else f"{sandbox} {namespace}",
        pid=os.getpid(),
        pid_started_at=_started_at(os.getpid()) or 0.0,
        version=__version__,
    )


def host_name(host: str | None) -> str:
    """The host that a run is noted for: `host`, or None for this machine's own name."""
    return host or socket.gethostname()


def is_gone(other: RunIdentity, here: RunIdentity) -> bool:
    """True only where it is certain, from here, that the other run's process has ended."""
    if not same_place(other, here) or not other.boot_id:
        return False
    started_at = _started_at(other.pid)
    if started_at is None:
        return not _is_hidden(other.pid)
    return started_at != other.pid_started_at


def _is_hidden(pid: int) -> bool:
    """There is such a process, it is another user's, and /proc may not show it: kill(2) with signal 0 tells."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # ours, which /proc shows: a corpse


def same_place(other: RunIdentity, here: RunIdentity) -> bool:
    """Both processes live, or lived, where pids mean the same."""
    return (other.host, other.boot_id, other.pid_namespace) == (here.host, here.boot_id, here.pid_namespace)


def same_process(other: RunIdentity, here: RunIdentity) -> bool:
    """Both runs are of one and the same process."""
    return same_place(other, here) and (other.pid, other.pid_started_at) == (here.pid, here.pid_started_at)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        import psutil  # no /proc: the boot is named by its time

        return f"boot:{int(psutil.boot_time())}"


def _namespace() -> str:
    try:
        return os.readlink(_PID_NAMESPACE)
    except OSError:
        return "host"


def _started_at(pid: int) -> float | None:
    """When the process began, as its kernel counts it; None: there is none, or only its corpse.

    Linux: clock ticks since boot, field 22 of /proc/PID/stat (proc(5)), which a step of the wall clock does not move;
    elsewhere seconds since the epoch.
    """
    if not _BOOT_ID.exists():
        return _started_at_by_psutil(pid)
    try:
        fields = (_PROC / f"{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else float(fields[19])


def _started_at_by_psutil(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
