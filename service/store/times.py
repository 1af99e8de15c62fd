"""The two clocks: this process's, for what people read, and the database's, for what servers compare."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def database_time(session: Session) -> datetime:
    """The time by the one clock that all servers on a database share, in UTC."""
    if session.get_bind().dialect.name == "sqlite":
        return now()  # all of them are on this machine
    told: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return told.astimezone(UTC)
