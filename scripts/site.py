"""What mkdocs is told besides `mkdocs.yml`: the pages beside README belong to the site, with their links mended."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", **{name: name for name in ("CONTRIBUTING.md", "RELEASING.md", "CHANGELOG.md")}}
API = "# Python interface\n\nWhat `import cnntrain` offers.\n\n::: cnntrain\n"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root, its license, the notebooks, and a page of the public functions."""
    texts = {page: (ROOT / name).read_text() for name, page in PAGES.items()}
    texts |= {"LICENSE.md": f"```text\n{(ROOT / 'LICENSE').read_text()}```\n", "api.md": API}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        files.append(File.generated(config, f"examples/{notebook.name}", abs_src_path=str(notebook)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Let links lead to where the pages are in the site: README is its start page."""
    markdown = re.sub(r"\]\((?:docs/|\.\./)", "](", markdown)
    for name, target in {**PAGES, "LICENSE": "LICENSE.md"}.items():
        markdown = re.sub(rf"\]\({re.escape(name)}(?=[#)])", f"]({target}", markdown)
    return re.sub(r"^<!-- not run:.*?-->\n", "", markdown, flags=re.MULTILINE)
