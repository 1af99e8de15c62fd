"""Ids of jobs by their beginnings."""

from ranksieve.api.client.client import Client
from ranksieve.search.errors import InputError

ID_LENGTH = 24
SHORTEST = 4
"""Fewest characters of a beginning."""


def full_id(client: Client, beginning: str) -> str:
    """Return the id of the only job whose id begins so.

    What is an id already, is too short to be meant as one, or begins no id is returned as it is.

    Raises:
        InputError: Several ids begin so.
    """
    if not SHORTEST <= len(beginning) < ID_LENGTH:
        return beginning
    found = [job["id"] for job in client.jobs(search=beginning, limit=500)]
    ids = [id for id in found if id.startswith(beginning)]
    if len(ids) > 1:
        raise InputError("id", f"{len(ids)} jobs begin with {beginning}, such as {ids[0]}; give more of it")
    return ids[0] if ids else beginning
