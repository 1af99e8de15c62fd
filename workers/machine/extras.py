"""Libraries that an optional extra of this package installs."""

from collections.abc import Iterable
from importlib.util import find_spec

from ranksieve.search.errors import InfrastructureError, InputError


def require_extra(extra: str, modules: Iterable[str], field: str | None = None) -> None:
    """Check that modules of an extra are installed, before any work starts.

    Args:
        extra: The extra.
        modules: What it installs.
        field: Field of a job file that asks for it, if any.

    Raises:
        InfrastructureError: Some are missing; names them and the command that installs the extra.
        InputError: The same, of a field.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return
    told = f"not installed: {', '.join(missing)}; install the extra with pip install 'ranksieve[{extra}]'"
    raise InfrastructureError(told) if field is None else InputError(field, f"needs what is {told}")
