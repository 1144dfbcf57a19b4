"""What people type to name a model on the hub."""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from suite.errors import InvalidRequest

_HOST = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PAGES = ("blob", "resolve", "raw", "tree")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A repository, and which of its models."""

    repository: str
    wanted: str | None = None
    """A quantization such as `Q4_K_M`, or a file of the repository; None: not said."""
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``org/name``, ``org/name:Q4_K_M``, ``org/name:file.gguf``, or the address of a page.

        Raises InvalidRequest.
        """
        path = _HOST.sub("", text.strip(), count=1).partition("?")[0].strip("/")
        path, _, wanted = path.partition(":")
        org_and_name, below = "/".join(path.split("/")[:2]), path.split("/")[2:]
        if not _REPOSITORY.fullmatch(org_and_name):
            raise InvalidRequest(
                f"{text[:80]!r} is no repository of the hub: "
                "name one such as bartowski/Llama-3.2-1B-Instruct-GGUF"
            )
        if len(below) > 1 and below[0] in _PAGES:
            below_it = "/".join(below[2:])
            return cls(repository=org_and_name, revision=unquote(below[1]), wanted=below_it or wanted or None)
        return cls(repository=org_and_name, wanted=wanted or None)
