"""`gepp-audit init-db`: create or upgrade our tables."""

from __future__ import annotations

import click

from gepp_audit.cli.app import App
from gepp_audit.cli.options import json_option
from gepp_audit.cli.render import Result


@click.command("init-db")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL instead of running it.")
@json_option
@click.pass_obj
def init_db(app: App, as_sql: bool) -> Result:
    """Create or upgrade the tables of gepp-audit in the database of DATABASE_URL.

    On a GEPP platform its own tables are left as they are. In an empty database they are created too, as far as they
    are used: such a database is gepp-audit's own, for `import` and for trying things out.
    """
    from gepp_audit.database.migrate import initialize, upgrade_sql

    url = app.settings.require_database_url()
    if as_sql:
        sql = upgrade_sql(url)
        return Result(data={"sql": sql}, text=(sql.rstrip(),))
    done = initialize(url)
    if done.revision_before is None:
        said = f"Created the tables of gepp-audit (version {done.revision}) in {done.database}."
    elif done.revision_before != done.revision:
        said = f"Upgraded the tables of gepp-audit from {done.revision_before} to {done.revision} in {done.database}."
    else:
        said = f"The tables of gepp-audit in {done.database} are up to date (version {done.revision})."
    text = [said]
    if done.embedded:
        text.append("This is an embedded database: it holds its own copy of the platform's tables.")
    return Result(
        data={
            "database": done.database,
            "revision_before": done.revision_before,
            "revision": done.revision,
            "embedded": done.embedded,
        },
        text=text,
    )
