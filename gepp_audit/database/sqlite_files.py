"""Where a SQLite file may lie: its locks and its write-ahead log need a local file system
(https://sqlite.org/wal.html).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gepp_audit.errors import OperatorError

_NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "gluster",
    "lustre",
    "fuse.sshfs",
    "fuse.s3",
    "fuse.gcs",
    "davfs",
    "webdav",
)
_MOUNTS: Final = Path("/proc/self/mounts")


def require_local_file_system(path: Path) -> None:
    """Refuse, with an OperatorError, a database file on a network file system."""
    kind = file_system_of(path)
    if is_network(kind):
        raise OperatorError(
            f"the SQLite database {path} lies on a network file system ({kind}), where its locks do not hold.",
            fix="Put it on a local disk, or use PostgreSQL for several hosts.",
            code="database_on_network",
        )


def is_network(kind: str) -> bool:
    """Whether a file system of this type lies on another machine."""
    return kind.startswith(_NETWORK)


def file_system_of(path: Path) -> str:
    """The type of the file system that holds `path` (`ext4`, `nfs4`…), or an empty string where that cannot be told."""
    resolved = path.resolve()
    best, kind = -1, ""
    for mount_point, mount_kind in _mounts():
        if resolved.is_relative_to(mount_point) and len(mount_point.parts) > best:
            best, kind = len(mount_point.parts), mount_kind
    return kind


def _mounts() -> list[tuple[Path, str]]:
    if _MOUNTS.exists():
        fields = (line.split() for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines())
        return [(Path(parts[1].replace("\\040", " ")), parts[2]) for parts in fields if len(parts) > 2]
    import psutil

    return [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
