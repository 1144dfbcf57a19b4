"""The read models of one node::

async with Projections.running(log, data_dir, now=utc_now) as projections:
    async with projections.usage.reading(min_seq) as db:
        reply = await usage(db, request)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from suite.identity import Now
from suite.log import Log
from suite.projections.catalogue import CatalogueProjection
from suite.projections.errors import ErrorsProjection
from suite.projections.evaluation import EvaluationProjection
from suite.projections.history import HistoryProjection
from suite.projections.projection import Projection
from suite.projections.projector import Projector
from suite.projections.usage import UsageProjection
from suite.tasks import background

FILES: Final[Mapping[type[Projection], str]] = {
    CatalogueProjection: "catalogue.db",
    UsageProjection: "usage.db",
    EvaluationProjection: "model_evaluation.db",
    ErrorsProjection: "errors.db",
    HistoryProjection: "history.db",
}
"""The names of the files in which a node keeps its read models."""


def paths(data_dir: Path, evaluation_path: Path | None = None) -> dict[type[Projection], Path]:
    """Where a node keeps the files of its read models.

    ``evaluation_path`` is the file of the evaluations, if it is not to be in the data directory.
    """
    found = {kind: data_dir / "projections" / name for kind, name in FILES.items()}
    return found if evaluation_path is None else found | {EvaluationProjection: evaluation_path}


class Projections:
    """All read models of a node."""

    def __init__(
        self,
        log: Log,
        files: Mapping[type[Projection], Path],
        *,
        now: Now,
        on_problem: Callable[[str], None],
    ) -> None:
        def keep(kind: type[Projection]) -> Projector:
            return Projector(kind(), files[kind], log, now=now, on_problem=on_problem)

        self.catalogue = keep(CatalogueProjection)
        self.usage = keep(UsageProjection)
        self.evaluation = keep(EvaluationProjection)
        self.errors = keep(ErrorsProjection)
        self.history = keep(HistoryProjection)

    @property
    def by_name(self) -> Mapping[str, Projector]:
        """All read models by name."""
        every = (self.catalogue, self.usage, self.evaluation, self.errors, self.history)
        return {projector.projection.name: projector for projector in every}

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems of all read models that cannot follow the log, with what to do."""
        return tuple(each.problem for each in self.by_name.values() if each.problem is not None)

    @property
    def losses(self) -> tuple[str, ...]:
        """What read models found that the log has lost, when they opened their files."""
        return tuple(each.loss for each in self.by_name.values() if each.loss is not None)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        log: Log,
        data_dir: Path,
        *,
        evaluation_path: Path | None,
        now: Now,
        on_problem: Callable[[str], None],
    ) -> AsyncIterator[Projections]:
        """Run all read models until the block ends.

        ``evaluation_path`` is the file of the evaluations, if it is not to be in the data directory.
        """
        projections = cls(log, paths(data_dir, evaluation_path), now=now, on_problem=on_problem)
        async with background() as tasks:
            for projector in projections.by_name.values():
                tasks.start_soon(projector.run)
            yield projections
