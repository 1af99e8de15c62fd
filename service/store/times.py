"""Clocks: this process's, for people, and the database's, shared by servers."""

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def database_time(session: Session) -> datetime:
    """Return the time, in UTC, of the clock that all servers on a database share."""
    if session.get_bind().dialect.name == "sqlite":
        return now()  # all servers are on this machine
    time: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return time.astimezone(UTC)
