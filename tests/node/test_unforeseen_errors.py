"""A node hears what its process logs, and whoever logs never fails by that."""

from __future__ import annotations

import logging

import anyio
import pytest

from suite.identity import boot_clock
from suite.node.reporter import Reporter


async def test_a_record_that_cannot_be_read_is_no_error_of_who_logs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reporter = Reporter(None, "box", clock=boot_clock)  # type: ignore[arg-type]  # there is nothing to append
    before = {*logging.getLogger().handlers}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reporter.run)
        await anyio.wait_all_tasks_blocked()
        (hearing,) = {*logging.getLogger().handlers} - before
        unreadable = logging.LogRecord("suite", logging.ERROR, "", 0, "%d", ("x",), None)
        failed: list[logging.LogRecord] = []
        monkeypatch.setattr(hearing, "handleError", failed.append)
        hearing.handle(unreadable)
        assert failed == [unreadable]
        tasks.cancel_scope.cancel()
