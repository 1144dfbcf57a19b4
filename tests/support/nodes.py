"""A real node in the process of the test, with its own NATS server and processes of models.

It starts in a fraction of the time of `suite serve`, most of which is imports. What is about the process of a
node, such as how it ends or what it logs, needs `support.service`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import suite
from suite.client import Client
from suite.config import load_configuration
from suite.node.startup import running_node
from support.service import WITHOUT_STANDBY


@asynccontextmanager
async def client_of_node(
    models: Path | Iterable[Path], data_dir: Path, *, config: Path | None = None, **settings: object
) -> AsyncIterator[Client]:
    """A client of a node on directories of models, until the block ends.

    The settings are those of the file `config`, and those that are given.
    """
    directories = [models] if isinstance(models, Path) else list(models)
    flags = {"data_dir": data_dir, "models_directories": directories, **settings}
    configured = load_configuration(config, environ=WITHOUT_STANDBY, flags=flags)
    async with running_node(configured.settings), suite.connect(data_dir=data_dir) as client:
        yield client
