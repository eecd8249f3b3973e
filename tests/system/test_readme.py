"""The README stays true: its SQL runs, its commands exist, its settings and rights are those of the program."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from sqlalchemy import text

from gepp_audit.cli import COMMANDS, main
from gepp_audit.settings import Settings
from tests.support import steps
from tests.support.platforms import Platform
from tests.support.processes import ROOT, Programs, Simulator

README = (ROOT / "README.md").read_text(encoding="utf-8")
on_postgresql = pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_is_short_enough_to_be_read() -> None:
    assert README.count("\n") <= 200


@on_postgresql
def test_its_queries_run(platform: Platform) -> None:
    platform.rule()
    organization = platform.organization()
    platform.batch(organization, platform.transactions(organization, 2))
    [queries] = [block for block in blocks("sql") if "SELECT id, organization_id, status" in block]
    answers = [platform.rows(query) for query in queries.split(";") if query.strip()]
    assert len(answers) == 4
    assert answers[0][0]["status"] == "in_progress"
    assert answers[1] == [{"status": "in_progress", "count": 1}]


@on_postgresql
def test_a_role_with_its_rights_can_do_everything_and_no_more(
    platform: Platform, programs: Programs, simulator: Simulator
) -> None:
    [grants] = [block for block in blocks("sql") if "CREATE ROLE" in block]
    role = f"gepp_audit_{platform.version}"
    with platform.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP TABLE IF EXISTS " + ", ".join(OUR_TABLES)))
        for statement in re.sub(r"--[^\n]*", "", grants).split(";"):
            wanted = statement.strip().replace("gepp_audit", role)
            if wanted and (platform.is_new or "transaction_audits" not in wanted):
                connection.execute(text(wanted.replace("choose one", "chosen")))
    platform.rule()
    organization = platform.organization()
    ids = platform.transactions(organization, 3, status="null")
    url = re.sub(r"//[^@]*@", f"//{role}:chosen@", platform.url)
    try:
        environ = {"DATABASE_URL": url, **simulator.environ}
        for command in (
            ("init-db",),
            ("enqueue", "--organization", str(organization)),
            ("process-queue",),
            ("show", "1"),
        ):
            done = programs.run(*command, environ=environ)
            assert done.exit_code == 0, done.stderr
        assert "queued" not in platform.labels(ids).values()
    finally:
        with platform.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
            connection.execute(text(f"DROP ROLE {role}"))


OUR_TABLES = (
    "gepp_audit_batches", "gepp_audit_items", "gepp_audit_calls", "gepp_audit_usage_daily", "gepp_audit_runs",
    "gepp_audit_limits", "gepp_audit_spend", "gepp_audit_alembic_version",
)  # fmt: skip


def test_each_command_of_the_program_is_told_of_and_each_told_of_exists() -> None:
    told = set(re.findall(r"`gepp-audit ([a-z-]+)", README))
    assert told == set(COMMANDS)


def test_each_flag_that_is_told_of_exists() -> None:
    context = click.Context(main)
    known = {option for parameter in main.params for option in parameter.opts}
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            known |= {option for parameter in one.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "--quick", "--system", "--create-home"}  # the last two are useradd's
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known


def test_each_setting_is_told_of() -> None:
    told = set(re.findall(r"`((?:GEPP_AUDIT|OPENAI|DATABASE)_[A-Z_]+)`", README))
    known = {variable for variable, _, _ in Settings().rows()} | {"GEPP_AUDIT_ENV_FILE"}
    assert told == known


def test_its_crontab_line_is_the_one_of_the_example() -> None:
    [line] = [block.strip() for block in blocks("cron")]
    assert line in Path(ROOT / "crontab.example").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
def test_the_tokens_of_a_completed_batch_are_found_where_it_says(platform: Platform) -> None:
    platform.rule()
    organization = platform.organization()
    batch = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    steps.settle_all(platform, [steps.verdict(platform, one) for one in steps.claim(platform)])
    steps.write_back(platform)
    steps.close_all(platform)
    [queries] = [block for block in blocks("sql") if "token_usage" in block]
    answers = [platform.rows(query) for query in queries.split(";") if query.strip()]
    assert answers[3] == [{"id": batch, "total_tokens": "120", "total_transactions": 1}]
