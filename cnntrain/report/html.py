"""Pages of HTML that need nothing beside themselves."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cnntrain.runtime.tables import cell


def render(template: str, page: Mapping[str, Any]) -> str:
    """Fill the template `template`.html.jinja of this folder; whatever is not marked safe in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = (files("cnntrain.report") / f"{template}.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": cell, "file_name": lambda path: Path(path).name}
    return environment.from_string(text).render(page)
