"""A history of requests, as replays read it, and the costs of the models in it.

A CSV file has a header and a row a request::

    timestamp_s,model_id,group_id,duration_s
    0,m0000,g0000,32.0

`group_id` (a client or a conversation) and `duration_s` may be left out. `model_gb` and `load_s` may be there
as well: what memory the model of this row takes, and how long it takes to load.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec
from msgspec import UNSET

from suite.domain.footprint import Footprint
from suite.domain.sizes import ready_bytes
from suite.errors import InvalidRequest
from suite.messages.envelope import Recorded
from suite.messages.events import Generated, InstanceLoaded, NodeStarted, UsageRecorded
from suite.prediction.costs import load_seconds
from suite.prediction.eviction.policy import Candidate
from suite.prediction.recent import RecentIds
from suite.prediction.uses import seconds_of

GIGABYTE: Final = 1_000_000_000
DEFAULT_MODEL_GB: Final = 6.0
DEFAULT_LOAD_SECONDS: Final = 22.7
"""Of a model whose costs the history does not tell. It is the median of the service of GenTD26."""

PERIODS: Final = (86_400.0, 21_600.0, 3_600.0)
"""A day, six hours, an hour."""
ENOUGH_PERIODS: Final = 8

_LARGEST: Final = 1e12
"""Of seconds and of GB. Unix times in seconds are far below it; in milliseconds they are above."""
_REQUIRED: Final = ("timestamp_s", "model_id")
_KNOWN: Final = (*_REQUIRED, "group_id", "duration_s", "model_gb", "load_s")


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One use of a model."""

    at: float
    """When it came, in seconds of any one clock."""
    model_id: str
    group_id: str = ""
    """The client or the conversation; empty: unknown."""
    seconds: float = 0.0
    """How long it used the model."""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in the order of time; at least one."""

    requests: tuple[Request, ...]
    candidates: Mapping[str, Candidate]
    """By model, what it costs. Every model of a request is there."""
    remarks: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    gpus: Mapping[str, int] = {}
    """What all models may have on each GPU, in bytes; empty: RAM was the only memory."""

    @property
    def period_seconds(self) -> float:
        """A period by which figures are shown and compared: the longest of which there are enough."""
        seconds = self.hours * 3600
        return next((each for each in PERIODS if seconds >= ENOUGH_PERIODS * each), PERIODS[-1])

    @property
    def hours(self) -> float:
        """From the first request to the last."""
        return (self.requests[-1].at - self.requests[0].at) / 3600


def read_csv(path: Path, *, default: Candidate) -> History:
    """The history in a CSV file; models without costs of their own get those of ``default``.

    Rows may be in any order, and unknown columns are left out; a remark tells. Raises InvalidRequest, with
    the line, for a file that cannot be read as a history.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return _CsvHistory(path, default).read(csv.reader(lines, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} cannot be read as CSV: {error}") from None


class _CsvHistory:
    """One file while it is read."""

    def __init__(self, path: Path, default: Candidate) -> None:
        self._path = path
        self._default = default
        self._costs: dict[str, Candidate] = {}

    def read(self, lines: Iterator[list[str]]) -> History:
        header = [name.strip() for name in next(lines, [])]
        self._check(header)
        row_of = self._row_of(header)
        requests = [row_of(line, number) for number, line in enumerate(lines, 2) if line]
        unknown = [name for name in header if name not in _KNOWN]
        remarks = [f"columns that are not used: {', '.join(unknown)}"] if unknown else []
        return history(requests, self._costs, default=self._default, remarks=remarks, source=str(self._path))

    def _check(self, header: list[str]) -> None:
        hint = f"the first line must name the columns, such as {','.join(_KNOWN[:4])}"
        if missing := [name for name in _REQUIRED if name not in header]:
            raise InvalidRequest(f"{self._path} has no column {' and no column '.join(missing)}: {hint}")
        if twice := [name for name in _KNOWN if header.count(name) > 1]:
            raise InvalidRequest(f"{self._path} has more than one column {twice[0]}: {hint}")

    def _row_of(self, header: list[str]) -> Callable[[list[str], int], Request]:
        columns = {name: header.index(name) for name in _KNOWN if name in header}
        at, model, group = columns["timestamp_s"], columns["model_id"], columns.get("group_id")
        seconds, size, load = (columns.get(name) for name in ("duration_s", "model_gb", "load_s"))

        def row(line: list[str], number: int) -> Request:
            if len(line) != len(header):
                raise self._error(number, f"{len(line)} values for {len(header)} columns")
            if not (model_id := line[model].strip()):
                raise self._error(number, "model_id is empty")
            if size is not None or load is not None:
                bytes_gb = self._number(line, number, size, least=1e-9)
                self._learn_costs(model_id, bytes_gb, self._number(line, number, load))
            came_at = self._number(line, number, at, least=-_LARGEST)
            if came_at is None:
                raise self._error(number, "timestamp_s is empty")
            return Request(
                at=came_at,
                model_id=model_id,
                group_id="" if group is None else line[group],
                seconds=self._number(line, number, seconds) or 0.0,
            )

        return row

    def _learn_costs(self, model_id: str, size: float | None, load_seconds: float | None) -> None:
        """What a row says of its model; what it does not say stays as it was said before."""
        known = self._costs.get(model_id) or msgspec.structs.replace(self._default, model_id=model_id)
        self._costs[model_id] = Candidate(
            model_id=model_id,
            bytes=math.ceil(size * GIGABYTE) if size else known.bytes,
            reload_seconds=known.reload_seconds if load_seconds is None else load_seconds,
        )

    def _number(
        self, line: list[str], number: int, column: int | None, *, least: float = 0.0
    ) -> float | None:
        """The number in a column; None where there is none."""
        if column is None or not line[column].strip():
            return None
        try:
            value = float(line[column])
        except ValueError:
            value = math.nan
        if not least <= value <= _LARGEST:
            problem = f"{line[column][:40]!r} is no number from {least:g} to {_LARGEST:g}"
            raise self._error(number, problem)
        return value

    def _error(self, number: int, problem: str) -> InvalidRequest:
        return InvalidRequest(f"{self._path}, line {number}: {problem}")


class LogHistory:
    """The history in a log: its uses, and the costs that were measured when models were loaded last.

    Of several nodes, ``node`` chooses one; uses that a client reported belong to all.
    """

    def __init__(self, *, node: str | None = None, default: Candidate) -> None:
        self._node = node
        self._default = default
        self._requests: list[Request] = []
        self._costs: dict[str, Candidate] = {}
        self._gpus: Mapping[str, int] = {}
        """The limit of each GPU of the node that started last."""
        self._nodes: set[str] = set()
        self._seen = RecentIds()
        self._old = 0
        """Uses of versions that did not record what they had waited for memory."""

    def fold(self, event: Recorded) -> None:
        """Take in one more event, of any kind."""
        if self._seen.is_copy(event.id):
            return
        match event.data:
            case Generated() as use if self._node in (None, use.node):
                self._nodes.add(use.node)
                self._old += use.waited_ms is UNSET
                seconds = seconds_of(use)
                self._use(use, event.time.timestamp() - seconds - _waited_seconds(use), seconds)
            case UsageRecorded() as use if not use.node or self._node in (None, use.node):
                self._use(use, event.time.timestamp(), 0.0)
            case NodeStarted() as start if self._node in (None, start.node):
                self._gpus = start.gpus
            case InstanceLoaded() as load if self._node in (None, load.node):
                ready = ready_bytes(load)
                self._costs[load.model_id] = Candidate(
                    model_id=load.model_id,
                    bytes=ready.total,
                    gpus=ready.gpus,
                    reload_seconds=load_seconds(load),
                )
            case _:
                pass

    def history(self) -> History:
        """What it has seen so far. Raises InvalidRequest if that has no uses."""
        limits = Footprint(0, self._gpus)
        costs = {id: each.counted_in(limits) for id, each in self._costs.items()}
        default = _mean(costs.values(), self._default)
        remarks = []
        if len(self._nodes) > 1:
            nodes = ", ".join(sorted(self._nodes))
            remarks.append(f"the nodes {nodes} were taken for one: --node chooses one of them")
        if self._old:
            remarks.append(
                f"{self._old:,} requests are of versions that did not record for how long they had waited "
                "for memory and loads: they are replayed as if they had come after that, so waits are missing"
            )
        return history(
            self._requests, costs, default=default, remarks=remarks, source="the log", gpus=self._gpus
        )

    def _use(self, use: Generated | UsageRecorded, at: float, seconds: float) -> None:
        self._requests.append(
            Request(at=at, model_id=use.model_id, group_id=use.conversation_id or "", seconds=seconds)
        )


def _waited_seconds(use: Generated) -> float:
    """From when the node had the request until the model's process had it, as far as known."""
    return 0.0 if use.waited_ms is UNSET else use.waited_ms / 1000


def history(
    requests: list[Request],
    costs: Mapping[str, Candidate],
    *,
    default: Candidate,
    remarks: Iterable[str] = (),
    source: str,
    gpus: Mapping[str, int] | None = None,
) -> History:
    """Requests in any order, put in order. Raises InvalidRequest if there are none."""
    if not requests:
        raise InvalidRequest(f"{source} has no requests: there is nothing to replay")
    told = list(remarks)
    late = sum(after.at < before.at for before, after in pairwise(requests))
    if late:
        told.append(
            f"{late:,} times one came before the one in front of it: they were put in the order of time"
        )
        requests.sort(key=attrgetter("at"))
    candidates = {
        model_id: costs.get(model_id) or msgspec.structs.replace(default, model_id=model_id)
        for model_id in dict.fromkeys(request.model_id for request in requests)
    }
    if len(candidates) == 1:
        told.append("there is only one model: no policy can do better or worse than another")
    return History(requests=tuple(requests), candidates=candidates, remarks=tuple(told), gpus=gpus or {})


def _mean(costs: Iterable[Candidate], default: Candidate) -> Candidate:
    """What a model probably costs that was never loaded: the mean of those that were."""
    known = list(costs)
    if not known:
        return default
    return msgspec.structs.replace(
        default,
        bytes=round(sum(each.bytes for each in known) / len(known)),
        gpus={
            name: round(sum(each.footprint[name] for each in known) / len(known))
            for name in {name: None for each in known for name in each.gpus}
        },
        reload_seconds=sum(each.reload_seconds for each in known) / len(known),
    )
