"""Hooks of mkdocs.yml: pages of the site that lie at the top of the repository, and links to them."""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds these pages."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Rewrites links to them, and theirs to the pages in docs/, which differ between repository and site."""
    names = "|".join(map(re.escape, PAGES))
    return re.sub(rf"\]\((?:\.\./({names})|docs/)", r"](\1", markdown)
