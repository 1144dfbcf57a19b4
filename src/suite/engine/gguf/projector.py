"""What the file of a projector (mmproj) says of itself: the encoder with which a model reads pictures."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

import msgspec

from suite.engine.gguf.gaps import find_gap
from suite.engine.gguf.header import Header, Malformed, Truncated, read_header
from suite.engine.gguf.keys import Keys
from suite.errors import ModelFileInvalid

ARCHITECTURE: Final = "clip"
"""What llama.cpp calls all projectors."""
_TYPE: Final = "mmproj"
_MAX_WIDTH: Final = 1 << 20


class ProjectorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A projector, as described by its file."""

    path: Path
    kind: str
    """What it is in llama.cpp's terms, such as ``gemma3``."""
    sees: bool
    """Whether it reads pictures; others read audio."""
    embedding_length: int | None
    """The embedding of the models that it is for; None: its file is too old to say it."""
    tensor_bytes: int


def inspect_projector(path: Path) -> ProjectorInfo:
    """Read the header of a projector's file. Blocks. Raises ModelFileInvalid, with the reason."""
    try:
        return _described(path, _header(path))
    except OSError as error:
        reason = error.strerror or str(error)
    except Malformed as error:
        reason = str(error)
    raise ModelFileInvalid(f"{path.name} is not a projector that can be used: {reason}")


def _header(path: Path) -> Header:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Malformed("it is not a regular file")
    with path.open("rb") as file:
        header = read_header(file, status.st_size)
        if (gap := find_gap(file, header)) is not None:
            raise Truncated(gap)
        return header


def _described(path: Path, header: Header) -> ProjectorInfo:
    keys = Keys(header)
    if keys.text("general.architecture") != ARCHITECTURE:
        raise Malformed("it is a model, not a projector")
    says_width = keys.text("general.type", "model") == _TYPE
    width = keys.integer("clip.vision.projection_dim", 0, at_least=0, at_most=_MAX_WIDTH)
    kind = keys.optional_text("clip.projector_type") or keys.optional_text("clip.vision.projector_type")
    return ProjectorInfo(
        path=path,
        kind=kind or "mlp",
        sees=keys.flag("clip.has_vision_encoder", default=False),
        embedding_length=width or None if says_width else None,
        tensor_bytes=sum(tensor.bytes for tensor in header.tensors),
    )
