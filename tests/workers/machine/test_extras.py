import pytest

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.machine.extras import require_extra


def test_missing_libraries_are_named_with_their_extra() -> None:
    require_extra("compare", ["json"])
    with pytest.raises(InfrastructureError, match=r"not installed: nope, nothing; .*'ranksieve\[compare\]'"):
        require_extra("compare", ["nope", "json", "nothing"])


def test_a_field_that_needs_an_extra_is_named() -> None:
    with pytest.raises(
        InputError, match=r"bits: needs what is not installed: nope; .*'ranksieve\[quantize\]'"
    ):
        require_extra("quantize", ["nope"], "bits")
