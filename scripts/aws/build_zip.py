"""Makes the zip that AWS Lambda runs: gepp-audit and its dependencies, from wheels for the function's platform.

    scripts/aws/build [--architecture x86_64|arm64] [--python 3.13] [--output dist/gepp-audit-lambda.zip]

Nothing is compiled, so it works on any machine. boto3 is left out: Lambda's runtime brings it. The same wheels make the
same zip, byte for byte. It refuses to write one that Lambda would refuse, or that lacks a package.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

# pip's own copies, since pip is what this needs anyway
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import NormalizedName, canonicalize_name

ROOT: Final = Path(__file__).resolve().parents[2]
#: what the package is built from
_SOURCES: Final = ("setup.cfg", "pyproject.toml", "README.md")
#: Lambda's names of the platforms, and those of wheels
MACHINES: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
#: the C library of Amazon Linux 2 (up to Python 3.11) and of Amazon Linux 2023
_OLD_TAGS: Final = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26")
_NEW_TAGS: Final = (*_OLD_TAGS, "manylinux_2_27", "manylinux_2_28", "manylinux_2_31", "manylinux_2_34")
#: Lambda's limits, in bytes: a zip that is uploaded directly, and what it unpacks to
LARGEST_ZIP: Final = 50 * 1000 * 1000
_LARGEST_UNPACKED: Final = 250 * 1000 * 1000
#: folders that no function needs; scripts for a shell are the first one of their path
_LEFT_OUT: Final = frozenset({"__pycache__", "tests"})
_SCRIPTS: Final = "bin"
#: what an installation leaves behind of itself, such as the folder that it was made from
_TRACES: Final = frozenset({"direct_url.json", "INSTALLER", "RECORD", "REQUESTED"})
#: the earliest moment that a zip can name
_WHEN: Final = (1980, 1, 1, 0, 0, 0)


class BuildError(Exception):
    """The zip cannot be made; says why and what to do."""


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=sorted(MACHINES), default="x86_64")
    parser.add_argument("--python", default="3.13", metavar="3.N", help="the function's runtime; default 3.13")
    parser.add_argument("--output", type=Path, default=ROOT / "dist" / "gepp-audit-lambda.zip", metavar="FILE")
    given = parser.parse_args()
    try:
        build(given.output, architecture=given.architecture, python=given.python)
    except BuildError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    size = given.output.stat().st_size / 1e6
    sys.stdout.write(f"{given.output}: {size:.1f} MB, for python{given.python} on {given.architecture}.\n")
    return 0


def build(output: Path, *, architecture: str, python: str) -> None:
    """Write the zip to `output`. BuildError: no such wheels, a package is missing, or it would be too large."""
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Path(folder) / "unpacked"
        _install(_wheel(Path(folder)), unpacked, MACHINES[architecture], python)
        require_complete(unpacked, MACHINES[architecture], python)
        files = sorted(_files(unpacked))
        whole = sum(path.stat().st_size for path in files)
        if whole > _LARGEST_UNPACKED:
            raise BuildError(f"it unpacks to {whole / 1e6:.0f} MB, and Lambda takes 250 MB.")
        written = Path(folder) / "function.zip"
        with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in files:
                entry = zipfile.ZipInfo(path.relative_to(unpacked).as_posix(), _WHEN)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
                archive.writestr(entry, path.read_bytes())
        if written.stat().st_size > LARGEST_ZIP:
            raise BuildError(f"it has {written.stat().st_size / 1e6:.0f} MB, and Lambda takes 50 MB.")
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(written, output)


def _wheel(folder: Path) -> Path:
    """The wheel of gepp-audit, from a copy of its sources, since a build leaves folders in them."""
    sources = folder / "sources"
    shutil.copytree(ROOT / "gepp_audit", sources / "gepp_audit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in _SOURCES:
        shutil.copy(ROOT / name, sources)
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(sources))
    [wheel] = folder.glob("*.whl")
    return wheel


def _install(wheel: Path, target: Path, machine: str, python: str) -> None:
    tags = _OLD_TAGS if tuple(map(int, python.split("."))) < (3, 12) else _NEW_TAGS
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{machine}")]
    fixed = ["--implementation", "cp", "--python-version", python, "--only-binary=:all:", "--no-compile"]
    _pip("install", *fixed, *platforms, "--target", str(target), str(wheel))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"pip {arguments[0]} failed:\n{done.stderr.strip()}")


def require_complete(unpacked: Path, machine: str, python: str) -> None:
    """BuildError where a package is missing that the function's own Python needs.

    What holds "only for Python 3.13", pip decides by the Python that it runs on.
    """
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found = {canonicalize_name(one.metadata["Name"]): one for one in distributions(path=[str(unpacked)])}
    wanted = list(_required(found[canonicalize_name("gepp-audit")], environment, frozenset({""})))
    seen: set[tuple[NormalizedName, frozenset[str]]] = set()
    while wanted:
        name, extras = wanted.pop()
        if name not in found:
            raise BuildError(
                f"the package {name} is needed on Python {python} and was not installed, since this is Python "
                f"{sys.version_info.major}.{sys.version_info.minor}. Build with Python {python} (remove .venv first)."
            )
        if (name, extras) not in seen:
            seen.add((name, extras))
            wanted += _required(found[name], environment, extras)


def _required(
    distribution: Distribution, environment: dict[str, str], extras: frozenset[str]
) -> Iterator[tuple[NormalizedName, frozenset[str]]]:
    for line in distribution.requires or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({**environment, "extra": extra}) for extra in extras):
            yield canonicalize_name(one.name), frozenset({"", *one.extras})


def _files(unpacked: Path) -> Iterator[Path]:
    for path in unpacked.rglob("*"):
        parts = path.relative_to(unpacked).parts
        if parts[0] == _SCRIPTS or _LEFT_OUT.intersection(parts) or path.name in _TRACES:
            continue
        if path.is_file():
            yield path


if __name__ == "__main__":
    sys.exit(main())
