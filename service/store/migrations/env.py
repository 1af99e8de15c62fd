"""Run by alembic: migrates over the connection it is handed, in that connection's transaction.

Sets up no logging and reads no ini file.
"""

from alembic import context

from ranksieve.service.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
