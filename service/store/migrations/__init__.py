"""How the schema came to be, one file per change.

A change of `service.store.schema` needs a file in `versions`; alembic drafts it with
`command.revision(config, autogenerate=True)` on a database at the last head.
"""
