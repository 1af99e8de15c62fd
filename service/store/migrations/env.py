"""Script of alembic that migrates over a given connection and its transaction.

Sets up no logging and reads no ini file.
"""

from alembic import context

from ranksieve.service.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
