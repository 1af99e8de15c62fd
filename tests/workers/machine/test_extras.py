import pytest

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.machine.extras import require_extra


def test_missing_libraries_are_named_with_their_extra() -> None:
    require_extra("compare", ["json"])
    with pytest.raises(InfrastructureError, match=r"not installed: nope, nothing; .*'ranksieve\[compare\]'"):
        require_extra("compare", ["nope", "json", "nothing"])
