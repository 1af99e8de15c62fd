"""Migrations of databases that an earlier version has made, one file per change.

New databases get their tables from `service.store.schema`. A change there needs a file in `versions`; alembic drafts it
with `command.revision(config, autogenerate=True)` on a database at the last head.
"""
