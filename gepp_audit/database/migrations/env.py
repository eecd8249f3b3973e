"""Alembic's entry: runs the revisions on the connection, or into the text buffer, that `migrate.py` hands over."""

from __future__ import annotations

from alembic import context

from gepp_audit.database.tables import VERSION_TABLE, metadata

_given = context.config.attributes
_connection = _given.get("connection")

if _connection is not None:
    context.configure(connection=_connection, target_metadata=metadata, version_table=VERSION_TABLE)
else:
    context.configure(
        dialect_name=_given["dialect_name"],
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        as_sql=True,
        literal_binds=True,
        output_buffer=_given["output_buffer"],
    )
with context.begin_transaction():
    context.run_migrations()
