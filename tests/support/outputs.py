"""The folder of one test run where everything that is printed or logged is kept, to be searched at its end."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

#: names the folder for the workers of a run, and for a person who wants to keep it
VARIABLE: Final = "GEPP_TEST_OUTPUT"


def output_folder() -> Path:
    """The run's folder; a new one where none was named."""
    if not os.environ.get(VARIABLE):
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="gepp-test-output-")
    folder = Path(os.environ[VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_output_file(name: str, suffix: str) -> Path:
    """A new, empty file in the run's folder, called after what writes into it."""
    handle, path = tempfile.mkstemp(prefix=f"{name}-", suffix=suffix, dir=output_folder())
    os.close(handle)
    return Path(path)
