"""Alembic runs this. The connection is handed over by engine.archive.index; offline SQL is not offered."""

from __future__ import annotations

from alembic import context

from engine.archive.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
