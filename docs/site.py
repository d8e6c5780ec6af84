"""Hooks of mkdocs: README.md is the first page, and what is no page is linked where the repository has it."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - mkdocs' own types
    """Add README.md as index.md, its links as seen from docs/."""
    text = (ROOT / "README.md").read_text().replace("](docs/", "](")
    files.append(
        File.generated(
            config, "index.md", content=re.sub(r"\[([^]]+)\]\((?:CHANGELOG|CONTRIBUTING)\.md\)", r"\1", text)
        )
    )
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Directories of code are not part of the site: their names stay, without a link."""
    return re.sub(r"\[([^]]+)\]\((?:plugin|recipes)/[^)]*\)", r"`docs/\1`", markdown)
