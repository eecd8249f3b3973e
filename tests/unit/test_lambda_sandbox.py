"""What tells one sandbox of a function from another: a name that stands in its own /tmp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gepp_audit.aws_lambda import sandbox as module
from gepp_audit.aws_lambda.sandbox import function_name

ASK = "from gepp_audit.aws_lambda.sandbox import sandbox; print(sandbox())"


def ask(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env={"TMPDIR": str(folder)}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def fresh(path: Path) -> str:
    """As the next process would find it."""
    module._sandbox.cache_clear()
    return module._sandbox(path)


def test_the_next_process_of_a_sandbox_finds_its_name_again(tmp_path: Path) -> None:
    name = ask(tmp_path)
    assert name.startswith("sandbox:")
    assert fresh(tmp_path / ".gepp-audit-sandbox") == name


def test_two_sandboxes_differ(tmp_path: Path) -> None:
    assert fresh(tmp_path / "1") != fresh(tmp_path / "2")


def test_where_nothing_can_be_kept_the_name_is_the_processs_own(tmp_path: Path) -> None:
    names = {fresh(tmp_path / "missing" / "file") for _ in range(2)}
    (tmp_path / "file").write_text("something else")
    names |= {fresh(tmp_path / "file") for _ in range(2)}
    assert len(names) == 4
    module._sandbox.cache_clear()
    assert module._sandbox(tmp_path / "file") == module._sandbox(tmp_path / "file")


def test_the_function_stands_for_the_host() -> None:
    assert function_name({"AWS_LAMBDA_FUNCTION_NAME": "audit"}) == "lambda:audit"
    assert function_name({}) == "lambda:gepp-audit"
