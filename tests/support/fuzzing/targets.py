"""All that there is to fuzz, and how many inputs of it a release is tested with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from support.fuzzing.actions import actions
from support.fuzzing.grammars import grammars, schemas
from support.fuzzing.inspection import inspection
from support.fuzzing.loads import loads
from support.fuzzing.pictures import pictures
from support.fuzzing.routes import routes
from support.fuzzing.run import Target
from support.fuzzing.service import FuzzedService, fuzzed_service
from support.fuzzing.templates import templates

Open = Callable[[Path], AbstractContextManager[Target[Any]]]
"""Opens a target that needs no service, in a directory of its own."""
OpenOn = Callable[[FuzzedService], AbstractAsyncContextManager[Target[Any]]]


class Known(NamedTuple):
    """A target by how it is opened."""

    long_form: int
    """How many inputs a release is tested with."""
    short_form: int
    """How many of them each run of the tests has."""
    open: Open | None = None
    open_on: OpenOn | None = None


TARGETS: Final = {
    "inspection": Known(20_000, 600, open=inspection),
    "schemas": Known(5_000, 60, open=schemas),
    "grammars": Known(5_000, 40, open=grammars),
    "templates": Known(2_000, 8, open=templates),
    "pictures": Known(20_000, 300, open=pictures),
    "actions": Known(50_000, 300, open_on=actions),
    "routes": Known(50_000, 150, open_on=routes),
    "loads": Known(500, 2, open_on=loads),
}


@asynccontextmanager
async def opened(name: str, directory: Path) -> AsyncIterator[Target[Any]]:
    """A target, with a service of its own if it needs one."""
    known = TARGETS[name]
    if known.open is not None:
        with known.open(directory) as target:
            yield target
    else:
        assert known.open_on is not None
        async with fuzzed_service(directory) as service, known.open_on(service) as target:
            yield target
