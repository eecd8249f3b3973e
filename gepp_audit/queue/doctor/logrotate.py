"""logrotate's rules as far as a log file's fate depends on them (logrotate(8)). Pure but for reading the files."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

#: endings that logrotate passes over in an included folder (its built-in tabooext)
_TABOO: Final = (
    ",v", ".bak", ".cfsaved", ".disabled", ".dpkg-bak", ".dpkg-del", ".dpkg-dist", ".dpkg-new", ".dpkg-old",
    ".dpkg-tmp", ".ignore", ".new", ".old", ".orig", ".rhn-cfg-tmp-*", ".rpmnew", ".rpmorig", ".rpmsave", ".swp",
    ".ucf-dist", ".ucf-new", ".ucf-old", "~",
)  # fmt: skip
_SCRIPTS: Final = frozenset({"postrotate", "prerotate", "firstaction", "lastaction", "preremove"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One block of a configuration, with what was set for all before it."""

    file: Path
    patterns: tuple[str, ...]
    #: the last one of a pair such as `compress` and `nocompress` holds
    directives: tuple[str, ...]

    def names(self, path: PurePosixPath) -> bool:
        """Whether it rotates this file."""
        return any(fnmatch.fnmatchcase(str(path), pattern) for pattern in self.patterns)

    def has(self, directive: str) -> bool:
        """Whether the directive is in force."""
        found = [one for one in self.directives if one in (directive, f"no{directive}")]
        return bool(found) and found[-1] == directive


def rules(root: Path) -> list[Rule]:
    """All rules of the machine below `root`: /etc/logrotate.conf and what it includes."""
    main = root / "etc/logrotate.conf"
    if main.is_file():
        return list(_rules_of(main, root, []))
    return [rule for path in _included(root / "etc/logrotate.d") for rule in _rules_of(path, root, [])]


def _rules_of(path: Path, root: Path, common: list[str]) -> Iterator[Rule]:
    """The rules of one file; directives outside of blocks are added to `common`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    patterns: list[str] = []
    inside: list[str] | None = None
    in_script = False
    for line in (one.strip() for one in lines):
        word = line.split(None, 1)[0] if line else ""
        if in_script:
            in_script = word != "endscript"
        elif not line or line.startswith("#"):
            continue
        elif inside is not None:
            if line.startswith("}"):
                yield Rule(file=path, patterns=tuple(patterns), directives=(*common, *inside))
                patterns, inside = [], None
            else:
                in_script = word in _SCRIPTS
                inside.append(word)
        elif line.startswith(("/", '"', "'", "{")) or patterns:
            names, brace, _ = line.partition("{")
            patterns += _words(names)
            inside = [] if brace else None
        elif word == "include":
            for included in _included(root / line.split(None, 1)[1].strip().lstrip("/")):
                yield from _rules_of(included, root, common)
        else:
            common.append(word)


def _included(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    try:
        found = sorted(one for one in path.iterdir() if one.is_file())
    except OSError:
        return []
    return [one for one in found if not any(fnmatch.fnmatchcase(one.name, f"*{ending}") for ending in _TABOO)]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
