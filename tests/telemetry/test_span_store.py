"""The spans that a machine keeps: the newest, within a size, whoever writes them at once."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from suite.messages.actions.traces import KeptSpan, LinkedSpan
from suite.telemetry import span_store
from suite.telemetry.span_store import SpanStore


def span(trace: int, number: int, *, parent: int = 0, linked: int | None = None) -> KeptSpan:
    return KeptSpan(
        trace_id=f"{trace:032x}",
        span_id=f"{number:016x}",
        parent_id=f"{parent:016x}" if parent else "",
        name=f"span {number}",
        kind="internal",
        process="node",
        start_ns=number,
        end_ns=number + 1,
        links=() if linked is None else (LinkedSpan(trace_id=f"{linked:032x}", span_id=f"{1:016x}"),),
    )


def test_a_trace_comes_back_with_what_is_linked_to_it(tmp_path: Path) -> None:
    store = SpanStore(tmp_path / "traces", 1 << 20)
    assert store.trace(f"{1:032x}") == ([], [])
    assert store.traces() == []
    store.append([span(1, 2, parent=1), span(1, 1)])
    store.append([span(2, 3), span(3, 4, linked=1)])
    own, linked = store.trace(f"{1:032x}")
    assert [each.span_id for each in own] == [f"{2:016x}", f"{1:016x}"]
    assert [each.name for each in linked] == ["span 4"]
    assert [each.name for each in store.traces()] == ["span 1", "span 3", "span 4"]
    assert store.traces()[0].end_ns == max(each.end_ns for each in own)


def test_it_keeps_the_newest_within_its_size(tmp_path: Path) -> None:
    size = 8_000
    store = SpanStore(tmp_path, size)
    for number in range(1, 500):
        store.append([span(number, number)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= size
    numbers = [each.start_ns for each in store.traces()]
    assert numbers[-1] == 499
    assert numbers == list(range(numbers[0], 500))
    assert len(numbers) > 15


def test_who_keeps_the_lock_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(span_store, "LOCK_SECONDS", 0.05)
    store = SpanStore(tmp_path, 1 << 20)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            store.append([span(1, 1)])
    store.append([span(2, 2)])
    assert [each.span_id for each in store.traces()] == [f"{2:016x}"]


def test_many_at_once_lose_and_tear_nothing(tmp_path: Path) -> None:
    stores = [SpanStore(tmp_path, 1 << 22) for _ in range(4)]  # as many processes have it open

    def write(trace: int) -> None:
        for number in range(1, 51):
            stores[trace % 4].append([span(trace, number)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(1, 9)))
    assert sum(len(SpanStore(tmp_path, 0).trace(f"{trace:032x}")[0]) for trace in range(1, 9)) == 8 * 50


def test_a_line_that_was_cut_is_passed_over(tmp_path: Path) -> None:
    store = SpanStore(tmp_path, 1 << 20)
    store.append([span(1, 1)])
    with (tmp_path / "spans.jsonl").open("ab") as file:
        file.write(b'{"trace_id":"half\n')
    store.append([span(1, 2)])
    assert len(store.trace(f"{1:032x}")[0]) == 2


def test_others_cannot_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    SpanStore(directory, 1 << 20).append([span(1, 1)])
    modes = [path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())]
    assert not any(mode & 0o077 for mode in modes)
