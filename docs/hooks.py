"""What mkdocs calls while it builds the site: adds the pages that are made from the code, and the decisions.

`mkdocs.yml` names this file. Whatever is wrong on the way ends the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from generator import actions, decisions, errors, events, metrics, settings
from suite.cli.main import commands

_EXAMPLES = re.compile(r"^[\b]\n(?P<title>[A-Z][A-Za-z ]*):\n(?P<lines>(?:  .*\n?)+)", re.MULTILINE)
_LINK = re.compile(r"\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)]*)?\)")
_ELSEWHERE = re.compile(
    r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*>|class=\"mermaid\""
)
_REPOSITORY = "repository"
"""The folder of the site with the files that pages link to and that are not in ``docs/``."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the decisions into the navigation, and the examples of the commands' help into blocks."""
    found = decisions.decisions(Path(config.docs_dir) / "adr")
    assert config.nav is not None
    _section(config.nav, "Decisions").extend(f"adr/{each.file_name}" for each in found)
    _fence_examples(commands, click.Context(commands))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code, and the files outside ``docs/`` that pages link to."""
    pages = {
        "reference/settings.md": settings.page(),
        "reference/actions.md": actions.page(),
        "reference/events.md": events.page(),
        "reference/errors.md": errors.page(),
        "reference/metrics.md": metrics.page(),
        "adr/index.md": decisions.page(Path(config.docs_dir) / "adr"),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    _add_linked(files, config)
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave ``docs/`` to the copies in the site, and those of the copies back."""
    del files

    def inside(link: re.Match[str]) -> str:
        target = _target(link["path"], page.file, config)
        if target is None:
            return link[0]
        to = os.path.relpath(_in_site(target, config), Path(page.file.src_uri).parent)
        return f"]({to}{link['anchor'] or ''})"

    return _LINK.sub(inside, markdown)


def on_page_content(html: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Of the ``::`` of reStructuredText that announces code, leave one colon."""
    del config, files
    return html.replace("::</p>", ":</p>") if page.file.src_uri == "reference/python.md" else html


def on_post_page(output: str, /, *, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page with which a reader's browser would ask somebody else for something."""
    del config
    if asked := _ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} needs something from elsewhere: {asked[0]}")
    return output


def _add_linked(files: Files, config: MkDocsConfig) -> None:
    """Add the files outside ``docs/`` that pages link to, and those that they link to."""
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for link in _LINK.finditer(page.content_string):
            target = _target(link["path"], page, config)
            if target is None or files.get_file_from_path(uri := _in_site(target, config)) is not None:
                continue
            added = File.generated(config, uri, content=target.read_bytes())
            files.append(added)
            if added.is_documentation_page():
                pages.append(added)


def _target(link: str, page: File, config: MkDocsConfig) -> Path | None:
    """The file of the repository that a link of a page leads to."""
    docs = Path(config.docs_dir)
    uri = Path(page.src_uri)
    folder = docs / uri if uri.parts[0] != _REPOSITORY else docs.parent / uri.relative_to(_REPOSITORY)
    target = Path(os.path.normpath(folder.parent / link))
    return target if target.is_relative_to(docs.parent) and target.is_file() else None


def _in_site(target: Path, config: MkDocsConfig) -> str:
    """The place of a file of the repository in the site."""
    docs = Path(config.docs_dir)
    if target.is_relative_to(docs):
        return target.relative_to(docs).as_posix()
    return f"{_REPOSITORY}/{target.relative_to(docs.parent).as_posix()}"


def _section(nav: list[Any], title: str) -> list[Any]:
    (section,) = (each[title] for each in nav if isinstance(each, dict) and title in each)
    assert isinstance(section, list)
    return section


def _fence_examples(group: click.Group, context: click.Context) -> None:
    r"""Make Markdown of the parts of a help that ``\b`` keeps as they are, for mkdocs-click."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        command.help = _fenced(command.help)
        if isinstance(command, click.Group):
            _fence_examples(command, click.Context(command, parent=context))
    group.help = _fenced(group.help)


def _fenced(help: str | None) -> str | None:
    def block(part: re.Match[str]) -> str:
        lines = "\n".join(line[2:] for line in part["lines"].splitlines())
        return f"{part['title']}:\n\n```text\n{lines}\n```\n"

    return None if help is None else _EXAMPLES.sub(block, help)
