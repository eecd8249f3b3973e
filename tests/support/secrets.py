"""The secrets of a test run, recognisable, and the search that must not find them in anything that was printed.

Every test uses these and no others, so that one search over all outputs and logs of a run proves that none leaks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

TEST_API_KEY: Final = "sk-test-3f9c71KEYmustNEVERappear"
TEST_DB_PASSWORD: Final = "pw-8d2e46PASSWORDmustNEVERappear"
TEST_JWT_SECRET: Final = "jwt-5b7a09SIGNINGsecretMUSTneverAPPEAR-long-enough-for-the-longest-hash"

_SECRETS: Final = {
    "the API key": TEST_API_KEY.encode(),
    "the database password": TEST_DB_PASSWORD.encode(),
    "the secret that signs tokens": TEST_JWT_SECRET.encode(),
}
_CHUNK: Final = 1 << 20
_OVERLAP: Final = max(len(secret) for secret in _SECRETS.values()) - 1


def leaks(files: Iterable[Path]) -> list[str]:
    """A sentence per file and secret found in it; the secret itself is not quoted.

    A file that vanished meanwhile is passed over; one that cannot be read is an error.
    """
    return [f"{name} stands in {path}" for path in files if path.exists() for name in _found_in(path)]


def _found_in(path: Path) -> Iterator[str]:
    missing = dict(_SECRETS)
    kept = b""
    with path.open("rb") as file:
        while missing and (chunk := file.read(_CHUNK)):
            text = kept + chunk
            for name in [name for name, secret in missing.items() if secret in text]:
                del missing[name]
                yield name
            kept = text[-_OVERLAP:]
