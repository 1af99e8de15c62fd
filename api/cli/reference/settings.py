"""Page of the settings: every variable that a server reads."""

from ranksieve.api.cli.reference.schemas import HEADER, rows
from ranksieve.api.reference.markdown import code, page, table
from ranksieve.service.server.settings import Settings


def render() -> str:
    """Render the page."""
    schema = Settings.model_json_schema()
    prefix = str(Settings.model_config["env_prefix"])
    variables = {
        **schema,
        "properties": {f"{prefix}{name.upper()}": field for name, field in schema["properties"].items()},
    }
    intro = (
        f"Environment variables of `ranksieve serve` and of the commands that work without a server. "
        f"An unknown variable that begins with {code(prefix)} is an error."
    )
    return page("# Settings", intro, table(("variable", *HEADER[1:]), rows(variables, {})))
