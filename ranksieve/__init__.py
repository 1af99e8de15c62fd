"""How small can a language model be and still do your task? Packages: `api`, `service`, `workers`, `search`.

import ranksieve
sieved = ranksieve.sieve("org/model", "reviews.jsonl", prompt="{{ text }}\\n", answer="{{ label }}", max_drop=1)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the server behind it takes seconds to import
    from ranksieve.api.python.sieve import Sieved, sieve

__all__ = ["Sieved", "sieve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ranksieve.api.python import sieve as module

    return getattr(module, name)
