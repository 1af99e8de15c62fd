"""The version of the installed distribution."""

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Version of `ranksieve`; `0+source` for a checkout that was not installed."""
    try:
        return version("ranksieve")
    except PackageNotFoundError:
        return "0+source"
