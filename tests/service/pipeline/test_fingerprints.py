"""A search goes on with the factors that it began with, and no others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ranksieve.search.errors import UnresumableError
from ranksieve.service.pipeline.fingerprints import require_same_factors


def test_a_search_goes_on_with_the_same_factors_alone() -> None:
    prepared: Any = SimpleNamespace(factors=Path("cache") / "factors-1")

    require_same_factors({"factors": "factors-1"}, prepared, "a")
    with pytest.raises(
        UnresumableError, match=r"job a would score differently than before: .*; submit the job"
    ):
        require_same_factors({"factors": "factors-2"}, prepared, "a")
