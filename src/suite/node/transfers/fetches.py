"""Fetches models that another node has into this one's model directory (ADR 61)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from io import BufferedWriter
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeAlias

import anyio
import anyio.abc
import anyio.from_thread
import anyio.to_thread
import msgspec

from suite.bus.bucket import Bucket
from suite.bus.connection import Connection, Message
from suite.catalogue import Catalogue, Model
from suite.catalogue.projectors import name_beside
from suite.catalogue.stores import is_of_a_store
from suite.engine.pictures.availability import why_missing
from suite.errors import (
    DiskFull,
    FileNameTaken,
    InvalidConfiguration,
    ModelFileGone,
    Overloaded,
    SuiteError,
    Unavailable,
    error_from_reply,
)
from suite.hub.download import download
from suite.hub.offers import HubFile
from suite.messages.actions.transfers import PushedModel
from suite.messages.subjects import Subjects
from suite.messages.transfers import (
    Fetched,
    Fetching,
    FetchModel,
    FetchNews,
    GetPart,
    PartAnswer,
    PartRefused,
    TransferFile,
)
from suite.node.transfers.lacks import lacks_of
from suite.node.transfers.parts import PART_BYTES
from suite.node.transfers.pushes import failed
from suite.tasks import background

logger = logging.getLogger("suite.transfers")

MOST_WAITING: Final = 16
"""One model is fetched at a time, and so many more wait for that."""
TELL_SECONDS: Final = 0.2
"""How often a node tells how far it is."""
BEATS: Final = 5
"""After so many times without a change it tells it nevertheless."""
PART_SECONDS: Final = 30.0
"""How long the other node may take to have a part in the store: it may have to read it from a slow disk."""
PART_TRIES: Final = 3
SEEN_SECONDS: Final = 10.0
"""How long it is waited for that the catalogue sees the new file."""
SEEN_PAUSE_SECONDS: Final = 0.1

GetBytes: TypeAlias = Callable[[int, int], Coroutine[Any, Any, bytes]]
"""Gets a part of a file by its number and offset."""

_encode = msgspec.json.Encoder().encode
_request_of = msgspec.json.Decoder(FetchModel).decode
_part_of = msgspec.json.Decoder(PartAnswer).decode


class Fetches:
    """The models that come to this node from others."""

    def __init__(
        self,
        node: str,
        connection: Connection,
        subjects: Subjects,
        catalogue: Catalogue,
        bucket: Bucket,
        *,
        tasks: anyio.abc.TaskGroup,
    ) -> None:
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self._catalogue = catalogue
        self._bucket = bucket
        self._tasks = tasks
        self._turn = anyio.Lock()

    async def listen(self) -> None:
        """Fetch what other nodes want to be fetched."""
        await self._connection.listen(self._subjects.node(self._node, "fetch"), self._receive)

    async def _receive(self, message: Message) -> None:
        try:
            request = _request_of(message.data)
        except msgspec.MsgspecError as error:
            logger.debug("another node sends a model in a way that nobody understands: %s", error)
            return
        self._tasks.start_soon(self._answer, request, _News(self._connection, message.reply))

    async def _answer(self, request: FetchModel, news: _News) -> None:
        async with background() as tasks:
            tasks.start_soon(news.keep_telling)
            try:
                outcome = self._with_lack(await self._fetch(request, news), request)
            except SuiteError as error:
                logger.warning("%s was not fetched from %s: %s", request.model_id, request.source, error)
                outcome = failed(self._node, error)
            except Exception:
                logger.exception("%s was not fetched from %s", request.model_id, request.source)
                outcome = failed(
                    self._node, SuiteError(f"{self._node} failed on this: its log has the cause")
                )
        await news.end(outcome)

    async def _fetch(self, request: FetchModel, news: _News) -> PushedModel:
        if self._turn.statistics().tasks_waiting >= MOST_WAITING:
            raise Overloaded(f"{self._node} fetches a model and {MOST_WAITING} wait: try again later")
        async with self._turn:
            if (known := await self._known(request)) is not None:
                return await self._with_projector(known, request, news)
            await self._check_id(request)
            directory = await anyio.to_thread.run_sync(_own_directory, list(self._catalogue.directories))
            projector = () if request.projector is None else (request.projector,)
            path = await self._bring(request, (*request.files, *projector), directory, news)
            logger.info("%s was fetched from %s: %s", request.model_id, request.source, path)
            return PushedModel(
                node=self._node, state="copied", model_id=await self._id_of(path), path=str(path)
            )

    async def _with_projector(self, known: Model, request: FetchModel, news: _News) -> PushedModel:
        """Bring the projector of a model that is here without one, unless its settings say what it has."""
        there = PushedModel(node=self._node, state="present", model_id=known.model_id, path=str(known.path))
        projector = request.projector
        if projector is None or known.projector is not None or known.settings.projector is not None:
            return there
        if why := why_missing() or _of_another_program(known):
            return msgspec.structs.replace(there, message=f"it reads no pictures there: {why}")
        name = name_beside(known.path.name, PurePosixPath(projector.path).name)
        file = msgspec.structs.replace(projector, path=name)
        path = await self._bring(request, (file,), known.path.parent, news)
        logger.info("the projector of %s was fetched from %s: %s", known.model_id, request.source, path)
        await self._sees(known.model_id)
        return msgspec.structs.replace(there, state="copied")

    def _with_lack(self, outcome: PushedModel, request: FetchModel) -> PushedModel:
        """The outcome with what the name still lacks here that all was copied for."""
        last = self._catalogue.models.get(outcome.model_id or "")
        if not request.name or last is None:
            return outcome
        name = last.model_id if request.name == request.model_id else request.name
        lacks = lacks_of(name, last, self._catalogue, self._node, has_draft=request.has_draft)
        return msgspec.structs.replace(
            outcome, message="; ".join(filter(None, (outcome.message, *lacks))) or None
        )

    async def _known(self, request: FetchModel) -> Model | None:
        """The model here that has this content, under whatever name."""
        size = sum(file.bytes for file in request.files)
        for model in [*self._catalogue.models.values()]:
            is_whole = model.error is None or model.adapter is not None
            if is_whole and model.file.signature.size == size and await self._digest(model) == request.sha256:
                return model
        return None

    async def _digest(self, model: Model) -> str | None:
        """The digest of a model; None if its file has gone or changed, and the catalogue is to see that."""
        try:
            await self._catalogue.look(model)
            return await self._catalogue.digest(model.model_id)
        except SuiteError:
            return None

    async def _check_id(self, request: FetchModel) -> None:
        """Check that no other file has the id. Raises FileNameTaken."""
        other = self._catalogue.models.get(request.model_id)
        if other is None or other.file.entry.unfinished is not None or await self._is_gone(other):
            return
        raise FileNameTaken(
            f"{self._node} has another file under the id {request.model_id}, which stays: rename or "
            f"remove {other.path}, then try again"
        )

    async def _is_gone(self, model: Model) -> bool:
        """Whether a file has been removed, and the catalogue is to see that."""
        try:
            await self._catalogue.look(model)
        except ModelFileGone:
            return model.outage is None
        except SuiteError:  # it cannot be used, but it is there
            return False
        return False

    async def _bring(
        self, request: FetchModel, wanted: Sequence[TransferFile], directory: Path, news: _News
    ) -> Path:
        """Bring files, the last ones of those that are offered, and return where the first of them is."""
        files = [HubFile(path=each.path, bytes=each.bytes, sha256=each.sha256) for each in wanted]
        offered = len(request.files) + (request.projector is not None)
        origin = _Origin(files, partial(self._part, request), first=offered - len(files))
        bring = partial(
            download,
            origin,
            files,
            directory,
            news.advance,
            replace=False,
            check=anyio.from_thread.check_cancelled,
        )
        try:
            return (await anyio.to_thread.run_sync(bring)).paths[0]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"{directory} is full: make room, then try again") from None
            raise InvalidConfiguration(f"{directory} cannot be written: {error.strerror or error}") from None

    async def _part(self, request: FetchModel, file: int, offset: int) -> bytes:
        """A part of a file. Raises what the other node says, and Unavailable."""
        asked = GetPart(transfer_id=request.transfer_id, node=self._node, file=file, offset=offset)
        subject = self._subjects.node(request.source, "part")
        for _ in range(PART_TRIES):
            answer = await self._connection.request(subject, _encode(asked), timeout=PART_SECONDS)
            part = _part_of(answer.data)
            if isinstance(part, PartRefused):
                raise error_from_reply(part.code, part.message)
            async with self._bucket.opened() as store:
                data = await store.get(part.sha256)
            if data is not None:
                return data
        raise Unavailable("a part has gone from the object store again and again: push the model again")

    async def _sees(self, model_id: str) -> None:
        """Wait until the catalogue has seen the projector of a model."""
        with anyio.move_on_after(SEEN_SECONDS):
            while True:
                model = self._catalogue.models.get(model_id)
                if model is None or model.projector is not None:
                    return
                await anyio.sleep(SEEN_PAUSE_SECONDS)

    async def _id_of(self, path: Path) -> str | None:
        """The id that a new file has, as soon as the catalogue has seen it."""
        with anyio.move_on_after(SEEN_SECONDS):
            while True:
                for model in self._catalogue.models.values():
                    if model.path == path and model.settled and model.file.entry.unfinished is None:
                        return model.model_id
                await anyio.sleep(SEEN_PAUSE_SECONDS)
        return None


class _Origin:
    """The other node, as `download` asks it from a thread."""

    def __init__(self, files: Sequence[HubFile], part: GetBytes, *, first: int) -> None:
        """``first`` is the number that the first of the files has there."""
        self._files = files
        self._part = part
        self._first = first

    def append(self, file: HubFile, part: BufferedWriter) -> None:
        """Append what a file does not have yet, beginning with a part that it has not got whole."""
        start = part.tell() // PART_BYTES * PART_BYTES
        part.seek(start)
        part.truncate()
        for offset in range(start, file.bytes, PART_BYTES):
            number = self._first + self._files.index(file)
            part.write(anyio.from_thread.run(self._part, number, offset))


class _News:
    """Tells the node that pushes a model how far it is, from whatever thread `advance` is called in."""

    def __init__(self, connection: Connection, reply: str) -> None:
        self._connection = connection
        self._reply = reply
        self._bytes = 0

    def advance(self, count: int) -> None:
        """Note how many bytes are here."""
        self._bytes = count

    async def keep_telling(self) -> None:
        """Tell it when it has changed, and every second at least."""
        told, silent = -1, 0
        while True:
            if self._bytes != told or silent >= BEATS:
                told, silent = self._bytes, 0
                await self._tell(Fetching(bytes=told))
            silent += 1
            await anyio.sleep(TELL_SECONDS)

    async def end(self, outcome: PushedModel) -> None:
        """Tell what became of it."""
        await self._tell(Fetched(outcome=outcome))

    async def _tell(self, news: FetchNews) -> None:
        try:
            await self._connection.publish(self._reply, _encode(news))
        except SuiteError as error:
            logger.debug("how far a model is, is not told: %s", error)


def _of_another_program(model: Model) -> str:
    """Why nothing is put beside a model, and what to do; empty if it is in a folder of our own."""
    source = model.file.entry.source
    if source == "directory":
        return ""
    return f"its folder is that of {source}; copy the projector there, and set projector to its path"


def _own_directory(directories: Sequence[Path]) -> Path:
    """The first model directory that is no other program's. Raises InvalidConfiguration. Blocks."""
    for directory in directories:
        if not is_of_a_store(directory):
            return directory
    raise InvalidConfiguration(
        "all model directories are those of other programs: add one of its own with --models-dir"
    )
