"""The examples of the site's pages: programs run, commands and settings are ones that there are."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from generator import actions, decisions, errors, events, metrics, settings
from generator.markdown import code
from suite.cli.main import commands
from suite.cli.versions import read_terms
from suite.config import load_configuration
from suite.config.layers import from_environment
from support.documents import REPOSITORY, Block, examples

DOCS = REPOSITORY / "docs"
PAGES = sorted([REPOSITORY / "README.md", *DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")])


def shown(*languages: str) -> Iterator[tuple[Path, Block]]:
    for page in PAGES:
        for block in examples(page, *languages):
            if block.test != "demo":
                yield page, block


def test_every_command_is_one_that_there_is() -> None:
    wrong = []
    for page, line in _command_lines():
        try:
            _parse(line)
        except click.ClickException as error:
            wrong.append(f"{page.name}: {line}: {error.format_message()}")
    assert wrong == []


def _command_lines() -> Iterator[tuple[Path, str]]:
    for page, block in shown("console", "bash"):
        begin = r"\$ (?:\.venv/bin/)?" if block.language == "console" else ""
        text = block.body.replace("\\\n", " ")
        for line in re.findall(rf"^{begin}(suite .*)$", text, re.MULTILINE):
            yield page, line


def _parse(line: str) -> None:
    """What click makes of a line. Raises UsageError for a command or option that there is not."""
    words = shlex.split(line, comments=True)[1:]
    ends = [place for place, word in enumerate(words) if word in ("|", ">", ">>", "&&", "<", "&")]
    arguments = words[: min(ends, default=len(words))]
    command: click.Command = commands
    context = click.Context(commands)
    while isinstance(command, click.Group) and arguments:
        inner = command.get_command(context, arguments[0])
        if inner is None:
            raise click.UsageError(f"there is no command {arguments[0]}")
        context = click.Context(inner, parent=context)
        command, arguments = inner, arguments[1:]
    try:
        command.make_context(command.name, arguments, parent=context)
    except click.BadParameter as error:
        if "does not exist" not in error.message:  # the files of the reader
            raise


def test_every_toml_example_is_a_configuration_or_the_terms_of_a_promotion(tmp_path: Path) -> None:
    found = list(shown("toml"))
    assert len(found) > 5
    for number, (page, block) in enumerate(found):
        path = tmp_path / f"{page.stem}-{number}.toml"
        path.write_text(block.body, encoding="utf-8")
        if "[gates]" in block.body:
            assert read_terms(path).gates is not None
            continue
        assert load_configuration(path, environ={}).warnings == ()


def test_every_other_example_can_be_read() -> None:
    read: dict[str, Callable[[str], object]] = {
        "json": json.loads,
        "python": ast.parse,
    }
    assert {block.language for _, block in shown(*read)} == read.keys()
    for _, block in shown(*read):
        read[block.language](block.body)


def test_the_references_have_everything() -> None:
    """The pages that are made from the code can be made: `make docs` then only has to lay them out."""
    rows = [row for rows in settings.groups().values() for row in rows]
    assert all(row.meaning for row in rows)
    for row in rows:
        if row.variable and row.default.startswith("`"):
            assert len(from_environment({row.variable: row.default.strip('`"')})) == 1, row.variable
    pages = (actions, errors, events, metrics, settings)
    for page in (*(each.page() for each in pages), decisions.page(DOCS / "adr")):
        assert page.startswith("# ")


def test_what_a_reference_links_to_on_its_own_page_is_there() -> None:
    for page in (actions.page(), events.page()):
        titles = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", page, re.MULTILINE)}
        assert {*re.findall(r"\]\(#([^)]+)\)", page)} <= titles


def test_any_text_can_be_shown_as_code() -> None:
    assert [code(text) for text in ("", "a", "a`b", "``")] == ["", "`a`", "`` a`b ``", "``` `` ```"]


def test_no_page_is_unfinished() -> None:
    assert [page for page in DOCS.rglob("*.md") if "TODO" in page.read_text(encoding="utf-8")] == []
