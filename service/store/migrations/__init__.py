"""Migrations of the schema, one file per change.

A change of `service.store.schema` needs a file in `versions`; alembic drafts it with
`command.revision(config, autogenerate=True)` on a database at the last head.
"""
