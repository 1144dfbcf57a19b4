"""Has other nodes fetch a model that this one has, and gives them its parts (ADR 61)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple, TypeAlias

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from suite.bus.bucket import Bucket
from suite.bus.connection import Connection, Message
from suite.catalogue import Catalogue, Model
from suite.catalogue.projectors import name_beside
from suite.errors import Cancelled, ModelFileGone, NodeLost, NoService, SuiteError
from suite.identity import NewId
from suite.messages.actions.transfers import PushedModel
from suite.messages.signals import Copying
from suite.messages.subjects import Subjects
from suite.messages.transfers import (
    Fetched,
    Fetching,
    FetchModel,
    FetchNews,
    GetPart,
    Part,
    PartAnswer,
    PartRefused,
    TransferFile,
)
from suite.node.transfers.names import names_elsewhere
from suite.node.transfers.needs import Needs
from suite.node.transfers.parts import Parts, Place

logger = logging.getLogger("suite.transfers")

SILENCE_SECONDS: Final = 10.0
"""A node that fetches tells something every second. After so long without it counts as lost."""
CLEAN_SECONDS: Final = 5.0

Tell: TypeAlias = Callable[[Copying], Awaitable[None]]
TellBytes: TypeAlias = Callable[[str, int], Awaitable[None]]
"""Called with a node, and how many bytes of a model it has."""

_encode = msgspec.json.Encoder().encode
_news_of = msgspec.json.Decoder(FetchNews).decode
_asked = msgspec.json.Decoder(GetPart).decode


class Content(NamedTuple):
    """What of a model is copied."""

    files: tuple[TransferFile, ...]
    sha256: str
    """The digest of all files, one after the other."""
    projector: TransferFile | None
    """That by which it reads pictures; None: it reads none."""

    @property
    def bytes(self) -> int:
        """The size of all that is copied."""
        return sum(file.bytes for file in self.files) + (self.projector.bytes if self.projector else 0)


class Pushed(NamedTuple):
    """What became of a push."""

    bytes: int
    """The size of all that the name needs."""
    sha256: str
    """The digest of what has the name."""
    outcomes: list[PushedModel]
    """On each node, by name."""


class Pushes:
    """The models that go from this node to others."""

    def __init__(
        self,
        node: str,
        connection: Connection,
        subjects: Subjects,
        catalogue: Catalogue,
        bucket: Bucket,
        *,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
    ) -> None:
        self._node = node
        self._connection = connection
        self._subjects = subjects
        self._catalogue = catalogue
        self._bucket = bucket
        self._tasks = tasks
        self._new_id = new_id
        self._running: dict[str, Parts] = {}

    async def listen(self) -> None:
        """Answer the nodes that ask for parts."""
        await self._connection.listen(self._subjects.node(self._node, "part"), self._receive)

    async def _content(self, model: Model) -> Content:
        """What is to be copied. Reads the files, as far as their digests are not known.

        Raises ModelFileGone and ModelFileInvalid.
        """
        paths = model.file.parts
        digest = await self._catalogue.digest(model.model_id)
        digests = [digest] if len(paths) == 1 else [(await _read(path)).sha256 for path in paths]
        named = zip(
            names_elsewhere(model, self._catalogue.directories),
            model.file.signature.parts,
            digests,
            strict=True,
        )
        files = tuple(TransferFile(path=name, bytes=part.size, sha256=sha256) for name, part, sha256 in named)
        return Content(files, digest, await self._projector(model, PurePosixPath(files[0].path)))

    async def _projector(self, model: Model, path: PurePosixPath) -> TransferFile | None:
        """The projector of a model whose first file goes to this path; it goes to the same folder."""
        if model.projector is None:
            return None
        own = model.projector.path
        read = await _read(own)
        name = name_beside(path.name, own.name)
        return TransferFile(path=str(path.with_name(name)), bytes=read.bytes, sha256=read.sha256)

    async def push(self, needs: Needs, nodes: Iterable[str], tell: Tell) -> Pushed:
        """Have nodes fetch what a name needs, one model after the other. `tell` is called with news.

        A node that could not take one gets none of those after it; without a draft model it gets the others.
        Raises ModelFileGone and ModelFileInvalid.
        """
        contents = [await self._content(each) for each in needs.models]
        total, passed = sum(each.bytes for each in contents), 0
        outcomes: dict[str, list[PushedModel]] = {node: [] for node in sorted(set(nodes))}
        able = list(outcomes)
        for model, content in zip(needs.models, contents, strict=True):
            request = FetchModel(
                transfer_id=self._new_id(),
                source=self._node,
                model_id=model.model_id,
                sha256=content.sha256,
                files=content.files,
                projector=content.projector,
                name=needs.name if model is needs.models[-1] else "",
                has_draft=needs.draft is not None,
            )
            sent = await self._have_fetched(model, request, able, _told(tell, passed, total))
            for node, outcome in sent.items():
                outcomes[node].append(outcome)
            able = [node for node in able if sent[node].state != "failed" or model is needs.draft]
            passed += content.bytes
        sha256 = contents[_own(needs)].sha256
        return Pushed(total, sha256, [outcome_of_all(needs, each) for each in outcomes.values()])

    async def _have_fetched(
        self, model: Model, request: FetchModel, nodes: Sequence[str], tell: TellBytes
    ) -> Mapping[str, PushedModel]:
        """Have nodes fetch one model, and return what became of it on each."""
        parts = Parts(_paths(model), nodes, self._bucket)
        outcomes: dict[str, PushedModel] = {}

        async def have_fetched(node: str) -> None:
            outcomes[node] = await self._push_to(node, request, parts, tell)

        self._running[request.transfer_id] = parts
        try:
            async with anyio.create_task_group() as tasks:
                for node in nodes:
                    tasks.start_soon(have_fetched, node)
        finally:
            del self._running[request.transfer_id]
            with anyio.move_on_after(CLEAN_SECONDS, shield=True):
                await self._clean(parts)
        return outcomes

    async def _push_to(self, node: str, request: FetchModel, parts: Parts, tell: TellBytes) -> PushedModel:
        try:
            outcome = await self._hear(node, request, tell)
            await parts.end(node)
        except NoService:
            return failed(node, NodeLost(f"{node} takes no models: it has gone, or is of an older version"))
        except SuiteError as error:
            return failed(node, error)
        return outcome

    async def _hear(self, node: str, request: FetchModel, tell: TellBytes) -> PushedModel:
        async with self._connection.request_many(
            self._subjects.node(node, "fetch"), _encode(request), idle_timeout=SILENCE_SECONDS
        ) as answers:
            async for message in answers:
                match _news_of(message.data):
                    case Fetching(bytes=count):
                        await tell(node, count)
                    case Fetched(outcome=outcome):
                        return outcome
        raise NodeLost(f"{node} has stopped fetching: push it again, and it goes on where it was")

    async def _clean(self, parts: Parts) -> None:
        try:
            await parts.remove_all()
        except SuiteError as error:
            logger.warning("parts of a model are left in the object store until they expire: %s", error)

    # --- parts --------------------------------------------------------------------------------------------

    async def _receive(self, message: Message) -> None:
        self._tasks.start_soon(self._answer, message)

    async def _answer(self, message: Message) -> None:
        try:
            answer = await self._part(_asked(message.data))
        except SuiteError as error:
            answer = PartRefused(code=error.code, message=error.message)
        except Exception:
            logger.exception("a node gets no part of a model")
            answer = PartRefused(
                code=SuiteError.code, message=f"{self._node} failed on this: its log has the cause"
            )
        try:
            await self._connection.publish(message.reply, _encode(answer))
        except SuiteError as error:
            logger.debug("a node is not told of its part: %s", error)

    async def _part(self, asked: GetPart) -> PartAnswer:
        parts = self._running.get(asked.transfer_id)
        if parts is None:
            raise Cancelled("nobody wants this model to be copied any more")
        return Part(sha256=await parts.provide(Place(asked.file, asked.offset), asked.node))


def failed(node: str, error: SuiteError) -> PushedModel:
    """The outcome on a node that could not take the model."""
    return PushedModel(node=node, state="failed", code=error.code, message=error.message)


def _told(tell: Tell, passed: int, total: int) -> TellBytes:
    """Tells of all models how far a node is with one of them, before which so many bytes have passed."""

    async def told(node: str, count: int) -> None:
        await tell(Copying(node=node, bytes=passed + count, total_bytes=total))

    return told


def _own(needs: Needs) -> int:
    """Which of the models has the name."""
    return next(index for index, each in enumerate(needs.models) if each is needs.own)


def outcome_of_all(needs: Needs, outcomes: Sequence[PushedModel]) -> PushedModel:
    """What became of a name on a node, by what became of the models there, up to the one that failed."""
    ids, own = [each.model_id for each in needs.models], _own(needs)
    copied = tuple(id for id, each in zip(ids, outcomes, strict=False) if each.state == "copied")
    said = [each.message for each in outcomes]
    for index, each in enumerate(outcomes):
        if each.state == "failed" and index != own:
            said[index] = f"{ids[index]}: {each.message}"
    if outcomes[-1].state == "failed":
        return msgspec.structs.replace(outcomes[-1], copied=copied, message=said[-1])
    return msgspec.structs.replace(
        outcomes[own],
        state="copied" if copied else "present",
        model_id=outcomes[own].model_id if ids[own] == needs.name else needs.name,
        copied=copied,
        message="; ".join(filter(None, said)) or None,
    )


def _paths(model: Model) -> tuple[Path, ...]:
    """All that is copied of a model."""
    return (*model.file.parts, *((model.projector.path,) if model.projector is not None else ()))


class _Read(NamedTuple):
    """What was read of a file."""

    bytes: int
    sha256: str


async def _read(path: Path) -> _Read:
    """The size and the digest of a part of a split model, or of a projector. Raises ModelFileGone."""

    def read() -> _Read:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return _Read(file.tell(), digest)

    try:
        return await anyio.to_thread.run_sync(read, abandon_on_cancel=True)
    except OSError as error:
        raise ModelFileGone(f"{path.name} cannot be read any more: {error.strerror}") from None
