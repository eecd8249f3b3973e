"""docs/operations.md stays true: what the program has stands in it, what stands in it the program has, and it runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from gepp_audit.cli import COMMANDS, main
from gepp_audit.cli.setting_words import WORDS
from gepp_audit.heard.textfile import METRICS
from gepp_audit.queue.diagnosis import Cause
from gepp_audit.queue.doctor import CHECKS
from gepp_audit.settings import Settings
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Programs, Simulator
from tests.support.queues import BROKEN, CLEAN, SampleQueue, connect

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
#: flags of systemctl and logrotate
OF_OTHERS = {"--now", "--debug"}


@cache
def sections(level: int) -> dict[str, str]:
    """The text under each heading of a level, up to the next one of it or above."""
    parts = re.split(rf"^(#{{1,{level}}}) (.+)$", TEXT, flags=re.MULTILINE)
    found = zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    return {heading: body for marks, heading, body in found if len(marks) == level}


def commands() -> Iterator[tuple[str, tuple[click.Command, ...]]]:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        yield name, tuple(command.commands.values()) if isinstance(command, click.Group) else (command,)


def flags(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


# -- everything stands in it, and nothing else -------------------------------------------------------------------------


def test_each_command_has_its_section_with_its_flags_and_no_others() -> None:
    told = {heading: body for heading, body in sections(3).items() if heading.startswith("gepp-audit ")}
    assert list(told) == [f"gepp-audit {name}" for name in COMMANDS]
    for name, variants in commands():
        rows = re.findall(r"^\| (`-.*?`) \|", told[f"gepp-audit {name}"], re.MULTILINE)
        found = {word for row in rows for word in re.findall(r"(?<![\w|-])--?[a-z][a-z-]*", row)}
        assert found == {flag for command in variants for flag in flags(command)}, name


def test_the_flags_before_the_command_are_told_of() -> None:
    rows = re.findall(r"^\| (`-.*?`) \|", sections(2)["Commands"].partition("###")[0], re.MULTILINE)
    assert {word for row in rows for word in re.findall(r"(?<![\w|-])--?[a-z][a-z-]*", row)} == flags(main)


def test_each_flag_that_is_named_anywhere_exists() -> None:
    known = {flag for _, variants in commands() for command in variants for flag in flags(command)} | flags(main)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= known | {"--help"} | OF_OTHERS


def test_each_setting_has_its_row_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (\S+) \| (.*) \|$", sections(2)["Settings"], re.MULTILINE)
    assert {name: meaning for name, _, meaning in rows} == WORDS
    defaults = {variable: value for variable, value, _ in Settings().rows()}
    for name, default, _ in rows:
        expected = defaults.get(name, "unset")
        assert default == ("none" if expected in ("unset", "none") else f"`{expected}`"), name


def test_no_setting_is_named_that_does_not_exist() -> None:
    assert set(re.findall(r"`((?:GEPP_AUDIT|OPENAI|DATABASE)_[A-Z_]+)", TEXT)) == set(WORDS)


def test_each_cause_of_stuck_has_its_section() -> None:
    told = [heading for heading in sections(3) if heading.startswith("stuck: ")]
    assert sorted(told) == sorted(f"stuck: {cause.value}" for cause in Cause)


@pytest.mark.parametrize("cause", list(Cause))
def test_the_section_of_a_cause_says_how_bad_it_is(cause: Cause) -> None:
    warning = cause in (Cause.PAUSED, Cause.LIMITED, Cause.RETRYING, Cause.SLOW)
    assert sections(3)[f"stuck: {cause.value}"].strip().startswith("WARNING." if warning else "CRITICAL.")


def test_each_check_of_the_doctor_has_its_section_with_its_meaning_and_fix() -> None:
    told = {heading: body for heading, body in sections(3).items() if heading.startswith("doctor: ")}
    assert list(told) == [f"doctor: {check.name}" for check in CHECKS]
    for check in CHECKS:
        body = " ".join(told[f"doctor: {check.name}"].split())
        assert " ".join(check.meaning.split()) in body
        assert f"**Fix:** {' '.join(check.fix.split())}" in body


def test_each_metric_of_the_textfile_has_its_row() -> None:
    rows = re.findall(r"^\| `(gepp_audit_[a-z_]+)`(?: by `([a-z]+)`)? \| (.*) \|$", TEXT, re.MULTILINE)
    assert rows == [(metric.full_name, metric.label or "", metric.help) for metric in METRICS]


def test_each_link_leads_somewhere() -> None:
    anchors = {re.sub(r"[^a-z0-9 -]", "", one.lower()).replace(" ", "-") for one in [*sections(2), *sections(3)]}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        found = target[1:] in anchors if target.startswith("#") else (ROOT / "docs" / target).is_file()
        assert found, target


def test_the_readme_leads_here() -> None:
    assert "(docs/operations.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


# -- every command in it runs ------------------------------------------------------------------------------------------


def documented() -> list[str]:
    """The commands of the shell blocks, each once; `&&` joins several."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", TEXT, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return list(dict.fromkeys(command for line in lines for command in line.split(" && ")))


#: test_crontab runs it on a spool of its own
NOT_HERE = "gepp-audit crontab --remove"


def exit_codes(command: str) -> tuple[int, ...]:
    """Those with which it may end: a monitor tells the state of the queue by them."""
    is_monitor = re.match(r"gepp-audit (stuck|doctor)\b", command) and "--yes" not in command
    return (0, 1, 2) if is_monitor else (0,)


@pytest.mark.usefixtures("cold_starts")  # none may need a library that another one has imported
@pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
def test_each_command_that_is_shown_runs(
    platform: Platform, programs: Programs, simulator: Simulator, tmp_path: Path
) -> None:
    connect(programs, platform, simulator)
    (tmp_path / ".env").write_text("# cron's settings\n", encoding="utf-8")
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    queue = SampleQueue(platform)
    ended = queue.queue([*CLEAN, BROKEN])
    assert programs.run("process-queue").exit_code == 0
    shown = documented()
    assert NOT_HERE in shown
    for command in (one for one in shown if one != NOT_HERE):
        # batch 42 and transaction 1001 of the text
        batch = (
            queue.queue([BROKEN]) if re.search("--requeue|--fail |cancel|stuck 42|process-queue", command) else ended
        )
        words = shlex.split(command.replace("42", str(batch)).replace("1001", "1"))[1:]
        environ = {}
        if words[0] == "import":
            environ["DATABASE_URL"] = f"sqlite:///{tmp_path}/new.db"
            programs.run("init-db", environ=environ)
        done = programs.run(*words, environ=environ)
        assert done.exit_code in exit_codes(command), f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Error" not in done.stderr, command


@pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
def test_dropping_our_tables_leaves_the_platform_as_it_is(platform: Platform) -> None:
    [block] = re.findall(r"```sql\n(.*?)```", sections(2)["Removal"], re.DOTALL)
    platform.execute(block.strip().rstrip(";"))
    left = platform.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    names = {row["table_name"] for row in left}
    assert not {name for name in names if name.startswith("gepp_audit")}
    assert {"transactions", "transaction_audit_history", "audit_rules"} <= names
