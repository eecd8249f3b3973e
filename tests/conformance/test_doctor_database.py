"""What the doctor sees of a database: rights, pooler, platform, hosts, rivals, old rows; on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from gepp_audit.database import health, pooling, rights
from gepp_audit.database.engine import create_database
from gepp_audit.database.migrate import initialize
from gepp_audit.errors import OperatorError
from gepp_audit.queue.diagnosis import Status
from gepp_audit.queue.doctor import Check, Surroundings, examine
from gepp_audit.queue.doctor.machine import Machine
from gepp_audit.settings import load
from tests.support.pgbouncer import running_pgbouncer, through
from tests.support.platforms import Platform
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.secrets import TEST_DB_PASSWORD

on_postgresql = pytest.mark.parametrize("platform", ["postgresql-old", "postgresql-new"], indirect=True)
on_new = pytest.mark.parametrize("platform", ["postgresql-new"], indirect=True)
on_sqlite = pytest.mark.parametrize("platform", ["sqlite"], indirect=True)
#: roles belong to the whole server
ROLE = "gepp_doctor"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine without crontabs and processes, not root's."""
    root = tmp_path / "machine"
    root.mkdir()
    return Machine(root=root, uid=12345, host="worker-1", environ={}, running=())


def report(url: str, machine: Machine, **environ: str) -> dict[str, Check]:
    """Every check by its name, against this database."""
    around = Surroundings(load({}, {"DATABASE_URL": url, "OPENAI_API_KEY": "sk-x", **environ}, machine.root), machine)
    try:
        return {check.name: check for check in examine(around).checks}
    finally:
        around.close()


@contextmanager
def role(cluster: PostgresServer, platform: Platform, *grants: str) -> Iterator[str]:
    """The address of the platform for a fresh role that has what these statements grant."""
    cluster.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{TEST_DB_PASSWORD}'")
    try:
        for grant in grants:
            cluster.execute(grant, platform.url.rpartition("/")[2])
        yield platform.url.replace("//gepp:", f"//{ROLE}:")
    finally:
        cluster.execute(f"DROP OWNED BY {ROLE}", platform.url.rpartition("/")[2])
        cluster.execute(f"DROP ROLE {ROLE}")


def readme_grants(platform: Platform) -> list[str]:
    """The README's statements for the queue's role, those for newer platforms where it is one."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = readme.partition("CREATE ROLE gepp_audit")[2].partition("\n")[2].partition("```")[0].splitlines()
    sql = "\n".join(line.partition("--")[0] for line in lines)
    found = [one.strip() for one in sql.split(";") if one.strip()]
    return [
        one.replace("gepp_audit", ROLE) for one in found if platform.is_new or "transaction_audits" not in one
    ] + [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {ROLE}" for table in ours(platform)] + [
        f"GRANT USAGE ON SEQUENCE gepp_audit_calls_id_seq TO {ROLE}",
        f"REVOKE CREATE ON SCHEMA public FROM {ROLE}",
    ]  # fmt: skip


def ours(platform: Platform) -> list[str]:
    found = platform.rows("SELECT tablename FROM pg_tables WHERE tablename LIKE 'gepp_audit%'")
    return [row["tablename"] for row in found]


# -- rights ------------------------------------------------------------------------------------------------------------


@on_postgresql
def test_a_role_with_the_readmes_grants_has_all_it_needs_and_nothing_beyond(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    with role(cluster, platform, *readme_grants(platform)) as url:
        checks = report(url, machine)
    assert (checks["rights"].status, checks["least-privilege"].status) == (Status.OK, Status.OK), checks


@on_new
@pytest.mark.parametrize(
    ("taken", "missing"),
    [
        ("REVOKE UPDATE ON transactions FROM gepp_doctor", "UPDATE on transactions"),
        ("REVOKE SELECT ON audit_rules FROM gepp_doctor", "SELECT on audit_rules"),
        ("REVOKE INSERT ON transaction_audits FROM gepp_doctor", "INSERT on transaction_audits"),
        (
            "REVOKE USAGE ON SEQUENCE transaction_audit_history_id_seq FROM gepp_doctor",
            "USAGE on the sequence public.transaction_audit_history_id_seq",
        ),
        ("REVOKE DELETE ON gepp_audit_items FROM gepp_doctor", "DELETE on gepp_audit_items"),
        ("REVOKE USAGE ON SEQUENCE gepp_audit_calls_id_seq FROM gepp_doctor", "public.gepp_audit_calls_id_seq"),
    ],
)
def test_a_right_that_is_missing_is_named_with_the_statement_that_gives_it(
    cluster: PostgresServer, platform: Platform, machine: Machine, taken: str, missing: str
) -> None:
    with role(cluster, platform, *readme_grants(platform), taken) as url:
        found = report(url, machine)["rights"]
        assert (found.status, missing in found.seen) == (Status.CRITICAL, True), found
        assert found.fix is not None
        for statement in found.fix.partition(": ")[2].split(";"):
            cluster.execute(statement or "SELECT 1", platform.url.rpartition("/")[2])
        assert report(url, machine)["rights"].status is Status.OK


@on_new
def test_update_on_just_the_columns_that_are_written_is_enough(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    columns = ", ".join(rights.NEEDED["transactions"]["UPDATE"] or ())
    narrow = (
        f"REVOKE UPDATE ON transactions FROM {ROLE}",
        f"GRANT UPDATE ({columns}) ON transactions TO {ROLE}",
    )
    with role(cluster, platform, *readme_grants(platform), *narrow) as url:
        assert report(url, machine)["rights"].status is Status.OK
        one_less = f"REVOKE UPDATE (status) ON transactions FROM {ROLE}"
        cluster.execute(one_less, platform.url.rpartition("/")[2])
        assert "UPDATE on transactions (status)" in report(url, machine)["rights"].seen


@on_new
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("GRANT DELETE, TRUNCATE ON transactions TO gepp_doctor", "DELETE/TRUNCATE on transactions"),
        ("GRANT UPDATE ON organizations TO gepp_doctor", "UPDATE on organizations"),
        ("GRANT UPDATE (name) ON organizations TO gepp_doctor", "UPDATE (some columns) on organizations"),
        ("GRANT SELECT ON user_locations TO gepp_doctor", "SELECT on user_locations"),
        ("GRANT CREATE ON SCHEMA public TO gepp_doctor", "CREATE on the schema public, which only init-db needs"),
        ("GRANT pg_read_server_files TO gepp_doctor", "member of pg_read_server_files"),
        ("ALTER TABLE audit_rules OWNER TO gepp_doctor", "it owns audit_rules"),
        ("ALTER ROLE gepp_doctor CREATEROLE", "it has CREATEROLE"),
    ],
)
def test_what_a_role_may_do_beyond_its_work_is_named(
    cluster: PostgresServer, platform: Platform, machine: Machine, given: str, told: str
) -> None:
    with role(cluster, platform, *readme_grants(platform), given) as url:
        checks = report(url, machine)
        cluster.execute("ALTER TABLE audit_rules OWNER TO gepp", platform.url.rpartition("/")[2])
    assert (checks["rights"].status, checks["least-privilege"].status) == (Status.OK, Status.WARNING)
    assert told in checks["least-privilege"].seen


@on_new
def test_what_everybody_or_another_role_gives_is_said_to_come_from_there(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    group = ("CREATE ROLE gepp_doctor_group", f"GRANT gepp_doctor_group TO {ROLE}")
    given = ("GRANT CREATE ON SCHEMA public TO PUBLIC", "GRANT DELETE ON transactions TO gepp_doctor_group")
    database = platform.url.rpartition("/")[2]
    try:
        with role(cluster, platform, *readme_grants(platform), *group, *given) as url:
            found = report(url, machine)["least-privilege"]
    finally:
        cluster.execute("DROP OWNED BY gepp_doctor_group; DROP ROLE gepp_doctor_group", database)
    assert "DELETE on transactions" in found.seen
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC;" in (found.fix or "")
    assert "It also has the rights of gepp_doctor_group" in (found.fix or "")


@on_new
def test_a_superuser_has_too_much(platform: Platform, machine: Machine) -> None:
    found = report(platform.url, machine)["least-privilege"]
    assert (found.status, "it is a superuser" in found.seen) == (Status.WARNING, True)
    assert "ALTER ROLE gepp NOSUPERUSER;" in (found.fix or "")


@on_new
def test_a_policy_that_may_hide_rows_is_told(cluster: PostgresServer, platform: Platform, machine: Machine) -> None:
    with role(cluster, platform, *readme_grants(platform), "ALTER TABLE transactions ENABLE ROW LEVEL SECURITY") as url:
        found = report(url, machine)["rights"]
    assert (found.status, "Row-level security" in found.seen) == (Status.WARNING, True)


@on_new
def test_a_role_that_may_not_even_use_the_schema_is_told_so(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    shut = ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", f"REVOKE USAGE ON SCHEMA public FROM {ROLE}")
    with role(cluster, platform, *readme_grants(platform), *shut) as url:
        checks = report(url, machine)
    assert "USAGE on the schema public" in checks["rights"].seen


# -- what stands between -----------------------------------------------------------------------------------------------


@on_new
def test_a_direct_connection_is_told_from_a_pooler(platform: Platform) -> None:
    assert pooling.look(platform.url) == pooling.Pooling(mode=pooling.Mode.DIRECT)


@on_new
@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_the_mode_of_a_real_pgbouncer_is_seen_from_outside(
    cluster: PostgresServer, platform: Platform, machine: Machine, mode: str
) -> None:
    with running_pgbouncer(cluster, mode=mode) as port:
        url = through(platform.url, cluster, port)
        for _ in range(3):
            assert pooling.look(url) == pooling.Pooling(mode=pooling.Mode(mode))
        found = report(url, machine)["pooler"]
    assert found.status is (Status.CRITICAL if mode == "statement" else Status.OK), found


@on_new
def test_a_pool_that_is_full_is_told_and_not_waited_for(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    with running_pgbouncer(cluster, mode="session", pool_size=1) as port:
        found = report(through(platform.url, cluster, port), machine)["pooler"]
    assert (found.status, "its pool is full" in found.seen) == (Status.WARNING, True)


# -- server and file ---------------------------------------------------------------------------------------------------


def test_the_server_and_its_clock_are_seen(platform: Platform, machine: Machine) -> None:
    checks = report(platform.url, machine)
    assert {checks[name].status for name in ("database", "server-version", "schema", "platform", "retention")} == {
        Status.OK
    }
    assert ("clock" in checks, "sqlite-file" in checks) == (platform.is_postgresql, not platform.is_postgresql)


@on_new
def test_a_database_that_is_away_makes_what_needs_it_unknown_and_the_rest_goes_on(
    cluster: PostgresServer, platform: Platform, machine: Machine
) -> None:
    checks = report(platform.url.replace(f":{cluster.port}/", ":1/"), machine)
    assert {checks[name].status for name in ("database", "schema", "rights", "clock", "runs")} == {Status.UNKNOWN}
    assert "connection refused" in checks["rights"].seen
    assert checks["settings"].status is Status.OK


def test_tables_of_ours_that_are_not_there_yet_are_told(platform: Platform, machine: Machine) -> None:
    for table in ("gepp_audit_alembic_version", "gepp_audit_runs"):
        platform.execute(f"DROP TABLE {table}")
    checks = report(platform.url, machine)
    assert (checks["schema"].status, checks["schema"].fix) == (Status.CRITICAL, 'Run "gepp-audit init-db".')
    assert checks["runs"].status is Status.UNKNOWN


def test_a_newer_schema_asks_for_an_upgrade_of_the_program(platform: Platform, machine: Machine) -> None:
    platform.execute("UPDATE gepp_audit_alembic_version SET version_num = '9999'")
    assert report(platform.url, machine)["schema"].fix == "Upgrade gepp-audit on this host."


def test_a_database_of_something_else_is_no_platform(tmp_path: Path, machine: Machine) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    database = create_database(url)
    database.write(lambda connection: connection.execute(text("CREATE TABLE transactions (id integer)")) and None)
    database.close()
    found = report(url, machine)["platform"]
    assert found.status is Status.CRITICAL
    assert "organizations" in found.seen
    assert "transactions.ai_audit_status" in found.seen


def test_batches_with_a_status_that_nobody_takes_are_told_with_the_setting(
    platform: Platform, machine: Machine
) -> None:
    organization = platform.organization()
    platform.batch(organization, platform.transactions(organization, 1), status="pending")
    found = report(platform.url, machine)["platform"]
    assert (found.status, "1 batch pending" in found.seen) == (Status.WARNING, True)
    assert "GEPP_AUDIT_BATCH_STATUSES=in_progress,pending" in (found.fix or "")
    both = report(platform.url, machine, GEPP_AUDIT_BATCH_STATUSES="in_progress,pending")["platform"]
    assert (both.status, "1 batch is open" in both.seen) == (Status.OK, True)


def test_a_file_without_its_log_is_seen_and_left_as_it_is(tmp_path: Path, machine: Machine) -> None:
    import sqlite3

    path = tmp_path / "p.db"
    initialize(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    before = path.read_bytes()
    found = report(f"sqlite:///{path}", machine)["sqlite-file"]
    assert (found.status, "write-ahead log is not in force" in found.seen) == (Status.WARNING, True)
    assert path.read_bytes() == before


def test_the_handle_that_looks_cannot_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'p.db'}"
    initialize(url)
    database = health.open_to_look(url)
    with pytest.raises(OperatorError, match="READONLY"):
        database.write(lambda connection: connection.execute(text("DELETE FROM gepp_audit_runs")) and None)
    database.close()


def test_a_file_that_is_no_database_is_told(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "p.db"
    path.write_text("nothing of the kind, but long enough for a header")
    checks = report(f"sqlite:///{path}", machine)
    assert checks["sqlite-file"].status is Status.CRITICAL
    assert checks["database"].status is Status.UNKNOWN


# -- the queue at work -------------------------------------------------------------------------------------------------


def heard_of(platform: Platform, host: str, ago: timedelta, version: str = "0.1.0") -> None:
    moment = datetime.now(UTC) - ago
    shown = moment if platform.is_postgresql else moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    platform.execute(
        "INSERT INTO gepp_audit_runs (id, host, boot_id, pid_namespace, pid, pid_started_at, version, started_at, "
        "reported_at, finished_at, outcome) VALUES (:id, :host, 'b', 'p', 1, 1, :version, :at, :at, :at, 'idle')",
        id=f"{host}-{version}-{ago.total_seconds()}",
        host=host,
        version=version,
        at=shown,
    )


def test_no_run_ever_is_critical(platform: Platform, machine: Machine) -> None:
    found = report(platform.url, machine)["runs"]
    assert (found.status, found.seen) == (Status.CRITICAL, "No run of gepp-audit has ever reported.")


@pytest.mark.parametrize(
    ("hosts", "status", "told"),
    [
        ([("worker-1", 1)], Status.OK, "worker-1"),
        ([("worker-2", 1)], Status.OK, "This host, worker-1, is none of them."),
        ([("worker-1", 6)], Status.CRITICAL, "No host has reported for more than five minutes"),
        ([("worker-1", 6), ("worker-1", 1)], Status.OK, "worker-1"),
        ([("worker-1", 1), ("worker-2", 600)], Status.WARNING, "worker-2 has been silent"),
        ([("worker-1", 1), ("worker-2", 20_000)], Status.OK, "worker-1"),
        ([("worker-1", 20_000)], Status.CRITICAL, "No run has reported for a week."),
    ],
)
def test_the_last_tick_of_each_host_is_looked_at(
    platform: Platform, machine: Machine, hosts: list[tuple[str, int]], status: Status, told: str
) -> None:
    for host, minutes in hosts:
        heard_of(platform, host, timedelta(minutes=minutes))
    found = report(platform.url, machine)["runs"]
    assert (found.status, told in found.seen) == (status, True), found


def test_hosts_of_different_versions_are_told(platform: Platform, machine: Machine) -> None:
    heard_of(platform, "worker-1", timedelta(), "0.2.0")
    heard_of(platform, "worker-2", timedelta(), "0.1.0")
    found = report(platform.url, machine)["runs"]
    assert (found.status, "different versions" in found.seen) == (Status.WARNING, True)


@pytest.mark.parametrize(
    ("theirs", "status"),
    [
        ("status = 'completed'", Status.CRITICAL),
        ("status = 'failed'", Status.CRITICAL),
        ("status = 'cancelled', deleted_date = CURRENT_TIMESTAMP", Status.OK),
        ("status = 'undone'", Status.OK),
        ("status = 'in_progress'", Status.OK),
    ],
)
def test_a_batch_of_ours_that_somebody_else_settled_betrays_a_rival(
    platform: Platform, machine: Machine, theirs: str, status: Status
) -> None:
    from tests.support import steps

    platform.rule()
    organization = platform.organization()
    batch = platform.batch(organization, platform.transactions(organization, 1))
    steps.take_up(platform)
    platform.execute(f"UPDATE transaction_audit_history SET {theirs} WHERE id = :id", id=batch)
    assert report(platform.url, machine)["rival"].status is status
    steps.reconcile(platform)
    assert report(platform.url, machine)["rival"].status is status


def test_rows_that_should_be_gone_are_counted(platform: Platform, machine: Machine) -> None:
    heard_of(platform, "worker-9", timedelta(days=90, hours=20))
    assert report(platform.url, machine)["retention"].status is Status.OK
    heard_of(platform, "worker-8", timedelta(days=92))
    found = report(platform.url, machine)["retention"]
    assert (found.status, "1 in gepp_audit_runs" in found.seen) == (Status.WARNING, True)
