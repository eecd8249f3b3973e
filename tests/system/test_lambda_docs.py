"""docs/aws.md stays true: its settings exist, its files are there, and its times are those of the function."""

from __future__ import annotations

import re

from gepp_audit.aws_lambda import invocation, references
from gepp_audit.aws_lambda.sandbox import function_name
from gepp_audit.settings import Settings
from tests.support.processes import ROOT
from tests.system.test_lambda_deployment import of_sam

TEXT = (ROOT / "docs" / "aws.md").read_text(encoding="utf-8")
PLAIN = " ".join(TEXT.split())


def test_each_setting_that_it_names_exists() -> None:
    known = set(Settings.variables().values())
    named = set(re.findall(r"\b((?:GEPP_AUDIT|OPENAI|DATABASE)_[A-Z_]+)\b", TEXT))
    assert {re.sub(r"_(SECRET|SSM)$", "", name) for name in named} <= known


def test_each_file_that_it_names_is_there() -> None:
    assert {path for path in re.findall(r"scripts/aws/[\w.]+", TEXT) if not (ROOT / path).is_file()} == set()
    assert "(docs/aws.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_times_are_those_of_the_function_and_of_the_template() -> None:
    claiming = of_sam()["timeout"] - Settings().call_timeout - invocation.SETTLE_SECONDS
    assert (
        f"(`GEPP_AUDIT_CALL_TIMEOUT`, {Settings().call_timeout:g} s) and {invocation.SETTLE_SECONDS:g} s to write back "
        f"are left: with {of_sam()['timeout']} s it takes work for {claiming:g} s"
    ) in PLAIN
    assert f"given up {invocation.ABANDON_SECONDS:g} s before the end" in PLAIN
    assert f"does not answer {invocation.GIVE_UP_SECONDS:g} s before it" in PLAIN
    assert f"kept in memory for {references.KEPT_SECONDS / 60:g} minutes" in PLAIN
    assert f"({of_sam()['memory']} MB, {of_sam()['timeout']} s, one at a time)" in PLAIN


def test_its_names_are_those_of_the_function() -> None:
    assert of_sam()["handler"] in TEXT
    assert of_sam()["runtime"] in TEXT
    assert function_name({"AWS_LAMBDA_FUNCTION_NAME": "x"}) == "lambda:x"
    assert "`GEPP_AUDIT_HOST` is `lambda:` and the function's name" in TEXT
