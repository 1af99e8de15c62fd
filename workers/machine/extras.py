"""Libraries that an optional extra of this package installs."""

from collections.abc import Iterable
from importlib.util import find_spec

from ranksieve.search.errors import InfrastructureError


def require_extra(extra: str, modules: Iterable[str]) -> None:
    """Check that modules of an extra are installed, before any work starts.

    Raises:
        InfrastructureError: Some are missing; names them and the command that installs the extra.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise InfrastructureError(
            f"not installed: {', '.join(missing)}; install the extra with pip install 'ranksieve[{extra}]'"
        )
