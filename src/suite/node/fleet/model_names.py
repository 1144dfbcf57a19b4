"""What requests call the models of a fleet: by names of this node, of other nodes, or of the log."""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Any, Final

import msgspec

from suite.bus.action import Action
from suite.catalogue import Catalogue
from suite.catalogue.variants import choices
from suite.errors import VersionGone
from suite.identity import NewId
from suite.node.fleet.peers import Peers
from suite.node.supervisor import Supervisor
from suite.node.versions import Names

_WORK: Final = frozenset({"generate_text", "embed", "rerank"})
"""The actions of which a version gets its share while it is tried. All else is about what serves."""


class ModelNames:
    """Finds the model that a name in a request means, wherever it is."""

    def __init__(
        self, catalogue: Catalogue, names: Names, supervisor: Supervisor, peers: Peers, new_id: NewId
    ) -> None:
        """`names`: what they mean as far as this node and the log know."""
        self._catalogue = catalogue
        self._names = names
        self._supervisor = supervisor
        self._peers = peers
        self._new_id = new_id

    def resolved(
        self, action: Action[Any], request: msgspec.Struct, nodes: Callable[[], Container[str]]
    ) -> msgspec.Struct:
        """A client's request with the model that it means, under the name that every node understands.

        `nodes`: those that may get work. Raises VersionNotFound, and VersionGone for a request that would
        need the content of a version.
        """
        asked = getattr(request, "model_id", None)
        if not isinstance(asked, str):
            return request
        try:
            resolved = self._names.resolved(asked, partial(self._share_key, request, action.name), nodes)
        except VersionGone:
            if action.route == "model":
                raise
            resolved = self._names.model_of(asked)
        return request if resolved == asked else msgspec.structs.replace(request, model_id=resolved)

    def _share_key(self, request: msgspec.Struct, action: str) -> str:
        """By what it is decided whether a request belongs to a share: a conversation stays where it is."""
        if action not in _WORK:
            return ""
        chosen = getattr(request, "conversation_id", None) or getattr(request, "generation_id", None)
        return chosen or self._new_id()

    def id_of(self, id_or_alias: str) -> str:
        """The id of a model: as it is called here, or else on another node."""
        asked = self._names.model_of(id_or_alias)
        here = self._catalogue.canonical(asked)
        if self._has(here):
            return here
        return self._peers.id_of(asked) or asked

    def meant(self, id_or_alias: str) -> str:
        """What a name stands for: the id of a model, or the name of one with adapters."""
        if self._says_adapters(id_or_alias):
            return self._names.model_of(id_or_alias)
        return self.id_of(id_or_alias)

    def has(self, id_or_alias: str) -> bool:
        """Whether this node or another one has a model."""
        asked = self._names.model_of(id_or_alias)
        return self._has(self._catalogue.canonical(asked)) or self._peers.id_of(asked) is not None

    def is_here(self, id_or_alias: str) -> bool:
        """Whether this node has a model."""
        return self._has(self._catalogue.canonical(id_or_alias))

    def nodes(self, asked: str) -> tuple[str, ...] | None:
        """The nodes that have the version which a name asks for; None if any version will do."""
        version = self._names.version(asked)
        return None if version is None else self._names.nodes(version)

    def sent_name(self, asked: str | None) -> str:
        """What the model is called where a request is sent on; empty if it has none."""
        if asked is None:
            return ""
        if (version := self._names.version(asked)) is not None:
            return version.name
        return asked if self._says_adapters(asked) else self.id_of(asked)

    def adapters_of(self, request: msgspec.Struct) -> frozenset[str]:
        """What a node must have for a request besides its model: adapters, and a name that says them."""
        asked = getattr(request, "model_id", "")
        names = {each.id for each in choices(getattr(request, "adapters", ()))}
        return frozenset(names | {self._names.model_of(asked)} if self._says_adapters(asked) else names)

    def _says_adapters(self, asked: str) -> bool:
        """Whether what a request calls its model says adapters too, here or on other nodes."""
        name = self._names.model_of(asked)
        if self._catalogue.variant(name) is not None:
            return True
        here = self._catalogue.canonical(name)
        return here == name and not self._has(here) and self._peers.stands_for(name) is not None

    def _has(self, model_id: str) -> bool:
        return model_id in self._catalogue.models or model_id in self._supervisor.instances
