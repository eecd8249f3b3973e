"""What deploys the function to AWS: the zip starts where nothing else is installed, and both templates say the same."""

from __future__ import annotations

import json
import platform as machine
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from gepp_audit.settings import Settings
from scripts.aws import build_zip
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect

AWS = ROOT / "scripts" / "aws"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: as Lambda calls it, by an interpreter that sees neither this environment nor its own site packages
CALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import gepp_audit.aws_lambda

class Context:
    aws_request_id = "request-1"
    def get_remaining_time_in_millis(self):
        return 120_000

told = gepp_audit.aws_lambda.handler({}, Context())
theirs = sorted({str(getattr(module, "__file__", None) or "") for module in sys.modules.values()})
print(json.dumps({"told": told, "files": [name for name in theirs if "site-packages" in name]}))
"""


# -- the zip -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
def test_the_zip_is_small_enough_and_starts_where_nothing_else_is_installed(
    platform: Platform, programs: Programs, simulator: Simulator, tmp_path: Path
) -> None:
    """A wheel of this machine's Python and platform is taken as one of the function's would be."""
    built, unpacked = tmp_path / "function.zip", tmp_path / "task"
    architecture = {"x86_64": "x86_64", "aarch64": "arm64"}[machine.machine()]
    done = subprocess.run(
        [sys.executable, AWS / "build_zip.py", "--python", PYTHON, "--architecture", architecture, "--output", built],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert built.stat().st_size < 50_000_000
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o644}
        archive.extractall(unpacked)
    assert not [
        name
        for name in names
        if re.search(r"(^|/)(tests|__pycache__|boto3|botocore)/|\.pyc$|^bin/|/(direct_url\.json|RECORD)$", name)
    ]
    assert {"gepp_audit/aws_lambda/__init__.py", "psycopg2/__init__.py"} <= set(names)

    connect(programs, platform, simulator)
    queue = SampleQueue(platform)
    queue.queue([*CLEAN, BROKEN])
    bare = Path(sys.base_prefix) / "bin" / f"python{PYTHON}"
    ended = programs.start_command([bare, "-I", "-S", "-c", CALL, str(unpacked)], PYTHONPATH="").wait()
    assert ended.exit_code == 0, ended.stderr
    assert (ended.json()["told"]["outcome"], ended.json()["told"]["calls"], ended.json()["files"]) == (
        "processed",
        3,
        [],
    )
    queue.assert_all_settled()


def distribution(folder: Path, name: str, *requires: str) -> None:
    """An installed package, as far as its metadata tell."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requires)]
    (info / "METADATA").write_text("\n".join(lines), encoding="utf-8")


def test_a_package_that_only_the_functions_python_needs_is_missed(tmp_path: Path) -> None:
    distribution(tmp_path, "gepp-audit", "Some.Client[fast]>=1", "tomli; python_version < '3.11'")
    distribution(
        tmp_path, "some-client", "late; python_version >= '3.13'", "speed; extra == 'fast'", "no; extra == 'x'"
    )
    distribution(tmp_path, "speed")
    build_zip.require_complete(tmp_path, "x86_64", "3.12")
    with pytest.raises(build_zip.BuildError, match=r"the package late is needed on Python 3\.13"):
        build_zip.require_complete(tmp_path, "x86_64", "3.13")


# -- the templates -----------------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones: `!Ref x` as {"Ref": "x"}."""


def _long_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _long_form)


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((AWS / name).read_text(encoding="utf-8"), Loader)
    return found


def of_sam() -> dict[str, Any]:
    """What the SAM template says of the function."""
    template = loaded("template.yaml")
    function = template["Resources"]["Queue"]["Properties"]
    [event] = function["Events"].values()
    return {
        "handler": function["Handler"],
        "runtime": function["Runtime"],
        "schedule": (event["Type"], event["Properties"]["Schedule"]),
        "timeout": function["Timeout"],
        "memory": function["MemorySize"],
        "at once": function["ReservedConcurrentExecutions"],
        "retries": function["EventInvokeConfig"],
        "dead letters": (function["DeadLetterQueue"]["Type"], function["DeadLetterQueue"]["TargetArn"]),
        "zip": function["CodeUri"],
        "log days": template["Parameters"]["LogRetentionDays"]["Default"],
        "kept dead letters": template["Resources"]["DeadLetters"]["Properties"]["MessageRetentionPeriod"],
        "secrets": {name for name in function["Environment"]["Variables"] if name.endswith("_SECRET")},
    }


def of_serverless() -> dict[str, Any]:
    """The same of the Serverless Framework's file."""
    file = loaded("serverless.yml")
    function, resources = file["functions"]["queue"], file["resources"]
    [event] = function["events"]
    target = resources["extensions"]["QueueLambdaFunction"]["Properties"]["DeadLetterConfig"]["TargetArn"]
    return {
        "handler": function["handler"],
        "runtime": file["provider"]["runtime"],
        "schedule": ("Schedule", event["schedule"]["rate"]),
        "timeout": function["timeout"],
        "memory": function["memorySize"],
        "at once": function["reservedConcurrency"],
        "retries": {
            "MaximumRetryAttempts": function["maximumRetryAttempts"],
            "MaximumEventAgeInSeconds": function["maximumEventAge"],
        },
        "dead letters": ("SQS", {"Fn::GetAtt": ".".join(target["Fn::GetAtt"])}),
        "zip": file["package"]["artifact"],
        "log days": file["provider"]["logRetentionInDays"],
        "kept dead letters": resources["Resources"]["DeadLetters"]["Properties"]["MessageRetentionPeriod"],
        "secrets": {name for name in function["environment"] if name.endswith("_SECRET")},
    }


def test_both_templates_start_the_handler_every_minute_one_at_a_time() -> None:
    assert of_sam() == of_serverless()
    assert of_sam() == {
        "handler": "gepp_audit.aws_lambda.handler",
        "runtime": "python3.13",
        # "rate(1 minutes)" would be refused by AWS, and cfn-lint lets it pass
        "schedule": ("Schedule", "rate(1 minute)"),
        "timeout": 120,
        "memory": 1024,
        "at once": 1,
        "retries": {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 300},
        "dead letters": ("SQS", {"Fn::GetAtt": "DeadLetters.Arn"}),
        "zip": "../../dist/gepp-audit-lambda.zip",
        "log days": 90,
        "kept dead letters": 14 * 24 * 3600,
        "secrets": {"DATABASE_URL_SECRET", "OPENAI_API_KEY_SECRET"},
    }


def test_the_build_makes_what_the_templates_run() -> None:
    build = (AWS / "build_zip.py").read_text(encoding="utf-8")
    assert 'ROOT / "dist" / "gepp-audit-lambda.zip"' in build
    assert re.findall(r'"--python", default="([0-9.]+)"', build) == [of_sam()["runtime"].removeprefix("python")]
    assert re.findall(r'choices=sorted\(MACHINES\), default="(\w+)"', build) == ["x86_64"]
    assert loaded("template.yaml")["Parameters"]["Architecture"]["Default"] == "x86_64"
    assert loaded("serverless.yml")["provider"]["architecture"] == "x86_64"


def test_cfn_lint_finds_nothing_in_the_template_and_something_in_a_broken_one(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    text = (AWS / "template.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace("RetentionInDays: !Ref LogRetentionDays", "RetentionInDays: 91"), encoding="utf-8")
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run(
        [lint, "--format", "parseable", AWS / "template.yaml", broken], capture_output=True, text=True, check=False
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")
    assert done.stdout.startswith(f"{broken}:")


def statements(template: dict[str, Any]) -> list[dict[str, Any]]:
    """The statements of the SAM template's role, those of a condition too."""
    [policy] = template["Resources"]["Role"]["Properties"]["Policies"]
    found = policy["PolicyDocument"]["Statement"]
    return [one["Fn::If"][1] if "Fn::If" in one else one for one in found]


def test_the_role_may_do_what_the_function_needs_and_no_more() -> None:
    told = {one["Sid"]: (one["Effect"], one["Action"], one["Resource"]) for one in statements(loaded("template.yaml"))}
    interfaces, denied = told.pop("LetLambdaIntoTheVpc"), told.pop("ButNotTheFunction")
    log = "arn:${AWS::Partition}:logs:${AWS::Region}:${AWS::AccountId}:log-group:/aws/lambda/${FunctionName}:*"
    assert told == {
        "WriteItsLog": ("Allow", ["logs:CreateLogStream", "logs:PutLogEvents"], {"Fn::Sub": log}),
        "LeaveDeadLetters": ("Allow", "sqs:SendMessage", {"Fn::GetAtt": "DeadLetters.Arn"}),
        "ReadItsSecrets": (
            "Allow",
            "secretsmanager:GetSecretValue",
            [{"Ref": "DatabaseSecretArn"}, {"Ref": "OpenAiSecretArn"}],
        ),
        "DecryptThem": ("Allow", "kms:Decrypt", {"Ref": "SecretsKeyArn"}),
    }
    assert (interfaces[0], denied[0], interfaces[1:]) == ("Allow", "Deny", denied[1:])
    mine = loaded("serverless.yml")["provider"]["iam"]["role"]["statements"]
    assert [one["Action"] for one in mine] == [["sqs:SendMessage"], ["secretsmanager:GetSecretValue"]]
    assert "*" not in json.dumps([one["Resource"] for one in mine])


@pytest.mark.parametrize("name", ["template.yaml", "serverless.yml"])
def test_no_secret_stands_in_a_template_and_each_setting_exists(name: str) -> None:
    file = loaded(name)
    variables = (
        file["Resources"]["Queue"]["Properties"]["Environment"]["Variables"]
        if name == "template.yaml"
        else file["functions"]["queue"]["environment"]
    )
    known = set(Settings.variables().values())
    assert {re.sub("_(SECRET|SSM)$", "", variable) for variable in variables} <= known
    assert "OPENAI_API_KEY" not in variables
    assert not re.search(r"sk-|://[^/\s]*:[^/\s]*@|AKIA", (AWS / name).read_text(encoding="utf-8"))
