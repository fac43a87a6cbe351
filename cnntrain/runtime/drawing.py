"""How figures are drawn, whoever draws them."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # matplotlib takes half a second to import
    pass


@contextlib.contextmanager
def styled(style: Mapping[str, Any]) -> Iterator[None]:
    """Draw and write figures in a style; names of a person's own are drawn as they are, `$` begins no formula."""
    import matplotlib

    settings: Any = {"text.parse_math": False, **style}  # its keys are typed as literals
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # it is a box, and the tables have it right
        yield
