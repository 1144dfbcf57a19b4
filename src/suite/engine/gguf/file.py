"""Reads the description of a model from its GGUF file, without llama.cpp and without reading the tensors::

    info = inspect(Path("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    info.architecture, info.parameters, info.quantization      # "llama", 134515008, "Q4_1"

llama.cpp aborts the whole process on some malformed files. A file that passes here is complete and has the
keys and counts that a load relies on. A defect that is missed can crash a model's process, but never the
node.
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from suite.engine.gguf.adapter import AdapterInfo, Matrices, by_name, describe_adapter
from suite.engine.gguf.gaps import find_gap
from suite.engine.gguf.ggml import FILE_TYPE_GUESSED, FILE_TYPES
from suite.engine.gguf.header import Header, Malformed, Tensor, Truncated, read_header
from suite.engine.gguf.keys import Keys
from suite.engine.gguf.names import MAX_PARTS, part_names, split_name
from suite.errors import ModelFileGone, ModelFileIncomplete, ModelFileInvalid

MAX_LAYERS = 512
"""llama.cpp's own limit (`LLAMA_MAX_LAYERS`)."""
MAX_VOCABULARY = 1 << 22
MOST_PADDING = 128
"""By so many tokens vocabularies of one family may differ in size: models pad theirs differently."""
MAX_WIDTH = 1 << 20
MAX_CONTEXT_TOKENS = (1 << 31) - 1
MAX_EXPERTS = 1024

ADAPTER: Final = "adapter"
"""The type of file that an adapter says it is."""
_MAX_REASON = 300
_OTHER_FILES: Final = {
    ADAPTER: "an adapter",
    "mmproj": "a multimodal projector",
    "imatrix": "an importance matrix",
    "vocab": "a vocabulary",
}
_NORMS: Final = (".attn_norm.weight", ".ffn_norm.weight")
_LAYER: Final = re.compile(r"(?:\A|\.)blk\.(\d{1,5})\.")
_INPUT_NAMES: Final = ("token_embd", "position_embd", "token_types")
_INPUT: Final = -1
_OUTPUT: Final = -2
"""Stand for layers: what embeds tokens, and what makes logits."""
_ENCODERS: Final = frozenset(
    (
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    )
)
"""Architectures of llama.cpp without causal attention, also where the file does not say so."""
_ENCODER_DECODERS: Final = frozenset(("t5",))
_RANKING: Final = 4
"""The pooling type of models with a ranking head (`LLAMA_POOLING_TYPE_RANK`)."""
_RANKING_HEADS: Final = frozenset(("cls.weight", "cls.output.weight"))
_NO_TOKENIZER = ("none", "no_vocab")


class _OtherFile(Malformed):
    """The file is what it should be, and no model."""


class GgufInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model as described by its file, or by all parts of a split file together."""

    architecture: str
    name: str | None
    parameters: int
    quantization: str
    context_tokens: int
    """The context length that the model was trained for."""
    block_count: int
    embedding_length: int
    feed_forward_length: int
    """The width of the widest layer; in a mixture of experts, of all experts used for one token together."""
    head_counts: tuple[int, ...]
    """Attention heads of each layer; 0 for a layer without attention."""
    kv_head_counts: tuple[int, ...]
    key_length: int
    """The number of values in one head's key."""
    value_length: int
    vocabulary: int
    """The number of tokens in the vocabulary."""
    merges: int
    tokenizer: str
    bos_token: int | None
    eos_token: int | None
    chat_template: str | None
    causal: bool
    """False for an encoder, which has no KV cache."""
    ranks: bool = False
    """Whether it has a head that says how well a document fits a query."""
    capabilities: tuple[str, ...]
    """Guessed from the file: "chat" if it has a template, "embedding" for encoders and pooled models,
    "rerank" for those with a ranking head."""
    file_bytes: int
    tensor_bytes: int
    tensor_bytes_by_type: dict[str, int]
    layer_bytes: tuple[int, ...]
    """The bytes of each layer's tensors."""
    input_bytes: int
    """The bytes of the tensors that embed tokens."""
    output_bytes: int
    """The bytes of all other tensors, which make logits of what the last layer says. A model without an
    output of its own uses the embeddings of tokens for that: they count here too."""
    parts: tuple[str, ...]
    """The file names of all parts."""
    matrices: Matrices = {}
    """The sizes of its matrices, which an adapter must have as well to change them."""

    @property
    def generates(self) -> bool:
        """Whether it can generate text: an encoder cannot, and an encoder-decoder needs both of its parts."""
        return self.causal and not self.ranks and self.architecture not in _ENCODER_DECODERS

    @property
    def embeds(self) -> bool:
        """Whether it can make embeddings. llama.cpp aborts where an encoder-decoder is used as one part."""
        return not self.ranks and self.architecture not in _ENCODER_DECODERS

    @property
    def purpose(self) -> str:
        """What it can do, for messages: it ..."""
        able = {
            "generates text": self.generates,
            "makes embeddings": self.embeds,
            "ranks documents": self.ranks,
        }
        return " and ".join(what for what, can in able.items() if can) or "can do nothing alone"


def inspect(path: Path) -> GgufInfo:
    """Read a model file's header, as `describe` does. Raises ModelFileInvalid for an adapter too."""
    info = describe(path)
    if isinstance(info, AdapterInfo):
        raise _invalid(path, Malformed(f"it is {_OTHER_FILES[ADAPTER]}, not a model"))
    return info


def describe(path: Path) -> GgufInfo | AdapterInfo:
    """Read the header of a model or an adapter, and those of the other parts when it is the first of several.

    Blocks for some milliseconds, in proportion to the vocabulary. Reads at most the header and keeps at
    most 64 MB of it. Raises ModelFileGone when there is no such file, ModelFileIncomplete when it or a part
    is not all there, and ModelFileInvalid with the reason when it cannot be loaded.
    """
    paths = [path]
    try:
        header, size = _read(path)
        if Keys(header).text("general.type", "model") == ADAPTER:
            return describe_adapter(header, size)
        parts = Keys(header).integer("split.count", 1, at_most=MAX_PARTS)
        headers, sizes = [header], [size]
        if parts > 1:
            paths = _part_paths(path, parts)
            for part in paths[1:]:
                header, size = _read(part)
                headers.append(header)
                sizes.append(size)
            _check_parts(headers)
        return _describe(headers, sum(sizes), tuple(part.name for part in paths))
    except Malformed as error:
        reason = str(error)[:_MAX_REASON]  # it may name a key of 65,535 bytes
        if isinstance(error, Truncated):
            raise ModelFileIncomplete(
                f"{path.name} is not whole: {reason}; it is served by itself once it is: let its download or "
                "copy end, or start it again"
            ) from None
        raise _invalid(path, error) from None


def _invalid(path: Path, error: Malformed) -> ModelFileInvalid:
    reason = str(error)[:_MAX_REASON]
    return ModelFileInvalid(f"{path.name} is not a model that can be loaded: {reason}; {_what_to_do(error)}")


def _what_to_do(error: Malformed) -> str:
    whole = isinstance(error, _OtherFile)
    return "choose the model that it is for" if whole else "download it again, or remove it"


def _read(path: Path) -> tuple[Header, int]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise Malformed(f"it is {kind}")
        with path.open("rb") as file:
            header = read_header(file, status.st_size)
            if (gap := find_gap(file, header)) is not None:
                raise Truncated(gap)
            return header, status.st_size
    except (FileNotFoundError, NotADirectoryError):
        raise ModelFileGone(f"{path.name} is gone: put it back, or choose another model") from None
    except OSError as error:
        raise Malformed(f"it cannot be read ({error.strerror or error})") from None


def _part_paths(path: Path, parts: int) -> list[Path]:
    split = split_name(path.name)
    if split is None or split[1:] != (1, parts):
        raise Malformed(f"it is one of {parts} parts: name the first NAME-00001-of-{parts:05}.gguf")
    paths = [path.with_name(part) for part in part_names(path.name)]
    for part in paths:
        if not part.exists():
            raise Truncated(f"its part {part.name} is missing")
    return paths


def _check_parts(headers: list[Header]) -> None:
    names: set[str] = set()
    total = Keys(headers[0]).integer("split.tensors.count", 0)
    width = Keys(headers[0]).integer(f"{Keys(headers[0]).text('general.architecture')}.embedding_length", 0)
    for number, header in enumerate(headers):
        keys = Keys(header)
        if keys.integer("split.tensors.count", total) != total or _is_of_another_width(header, width):
            raise Malformed(f"its part {number + 1} is a part of another model")
        if keys.integer("split.count", 1) != len(headers) or keys.integer("split.no", 0) != number:
            raise Malformed(f"its part {number + 1} says that it is another part")
        found = {tensor.name for tensor in header.tensors}
        if names & found:
            raise Malformed(f"its part {number + 1} repeats tensors")
        names |= found
    if total and total != len(names):
        raise Malformed("its parts together do not have all tensors")


def _is_of_another_width(header: Header, width: int) -> bool:
    """Whether its layers are wider or narrower than the model: norms have one value for each of its width."""
    norms = (tensor for tensor in header.tensors if tensor.name.endswith(_NORMS))
    return any(norm.dimensions[0] != width for norm in norms)


def _describe(headers: list[Header], file_bytes: int, parts: tuple[str, ...]) -> GgufInfo:
    keys = Keys(headers[0])
    kind = keys.text("general.type", "model")
    if kind in _OTHER_FILES:
        raise _OtherFile(f"it is {_OTHER_FILES[kind]}, not a model")
    architecture = keys.text("general.architecture")
    tensors = [tensor for header in headers for tensor in header.tensors]
    if not tensors:
        raise Malformed("it has no tensors")

    prefix = f"{architecture}."
    layers = keys.integer(f"{prefix}block_count", at_least=1, at_most=MAX_LAYERS)
    width = keys.integer(f"{prefix}embedding_length", at_least=1, at_most=MAX_WIDTH)
    attends = not any(key.startswith((f"{prefix}ssm.", f"{prefix}wkv.")) for key in headers[0].values)
    heads = keys.by_layer(f"{prefix}attention.head_count", layers, MAX_WIDTH, default=None if attends else 0)
    kv_heads = keys.by_layer(f"{prefix}attention.head_count_kv", layers, MAX_WIDTH, default=heads)
    head_width = width // max(1, *heads)
    if attends and not head_width:
        raise Malformed(f"it claims {max(heads)} heads for a width of {width}")
    lengths = {
        kind: keys.integer(f"{prefix}attention.{kind}_length", head_width, at_most=MAX_WIDTH)
        for kind in ("key", "value")
    }
    keys.check_finite(prefix)
    causal = keys.flag(f"{prefix}attention.causal", default=architecture not in _ENCODERS)
    template = keys.optional_text("tokenizer.chat_template")
    pooling = keys.integer(f"{prefix}pooling_type", 0)
    ranks = pooling == _RANKING and any(tensor.name in _RANKING_HEADS for tensor in tensors)

    bytes_by_type: Counter[str] = Counter()
    for tensor in tensors:
        bytes_by_type[tensor.type.name] += tensor.bytes
    by_place = _bytes_by_place(tensors, layers)
    tokenizer = keys.text("tokenizer.ggml.model")
    vocabulary = _vocabulary(keys)
    if tokenizer in _NO_TOKENIZER or not vocabulary:
        raise Malformed("it has no tokenizer")
    return GgufInfo(
        architecture=architecture,
        name=keys.optional_text("general.name"),
        parameters=sum(tensor.elements for tensor in tensors),
        quantization=_quantization(keys, bytes_by_type),
        context_tokens=keys.integer(f"{prefix}context_length", at_least=1, at_most=MAX_CONTEXT_TOKENS),
        block_count=layers,
        embedding_length=width,
        feed_forward_length=_feed_forward(keys, prefix, layers),
        head_counts=heads,
        kv_head_counts=kv_heads,
        key_length=lengths["key"],
        value_length=lengths["value"],
        vocabulary=vocabulary,
        merges=keys.array_length("tokenizer.ggml.merges", MAX_VOCABULARY),
        tokenizer=tokenizer,
        bos_token=_token(keys, "bos", vocabulary),
        eos_token=_token(keys, "eos", vocabulary),
        chat_template=template,
        causal=causal,
        ranks=ranks,
        capabilities=_capabilities(
            chats=template is not None, embeds=not causal or pooling != 0, ranks=ranks
        ),
        file_bytes=file_bytes,
        tensor_bytes=bytes_by_type.total(),
        tensor_bytes_by_type=dict(bytes_by_type),
        layer_bytes=tuple(by_place[each] for each in range(layers)),
        input_bytes=by_place[_INPUT],
        output_bytes=by_place[_OUTPUT],
        parts=parts,
        matrices=_matrices(tensors),
    )


def _matrices(tensors: Sequence[Tensor]) -> Matrices:
    return by_name(
        {each.name: (each.dimensions[0], each.dimensions[1]) for each in tensors if len(each.dimensions) > 1}
    )


def _bytes_by_place(tensors: Sequence[Tensor], layers: int) -> Counter[int]:
    """The bytes of tensors by the number of their layer, `_INPUT` or `_OUTPUT`."""
    found: Counter[int] = Counter()
    for tensor in tensors:
        if (layer := _LAYER.search(tensor.name)) is not None:
            found[min(int(layer[1]), layers - 1)] += tensor.bytes
        else:
            found[_INPUT if tensor.name.startswith(_INPUT_NAMES) else _OUTPUT] += tensor.bytes
    if all(tensor.name != "output.weight" for tensor in tensors):
        found[_OUTPUT] += sum(tensor.bytes for tensor in tensors if tensor.name == "token_embd.weight")
    return found


def _capabilities(*, chats: bool, embeds: bool, ranks: bool) -> tuple[str, ...]:
    if ranks:
        return ("rerank",)
    return ("chat",) * chats + ("embedding",) * embeds


def _feed_forward(keys: Keys, prefix: str, layers: int) -> int:
    dense = keys.by_layer(f"{prefix}feed_forward_length", layers, MAX_WIDTH, default=0)
    experts = keys.integer(f"{prefix}expert_used_count", 0, at_least=0, at_most=MAX_EXPERTS)
    width = keys.integer(f"{prefix}expert_feed_forward_length", max(dense), at_least=0, at_most=MAX_WIDTH)
    return max(experts * width, *dense)


def _vocabulary(keys: Keys) -> int:
    """The number of tokens. llama.cpp assumes that there are as many scores and types."""
    tokens = keys.array_length("tokenizer.ggml.tokens", MAX_VOCABULARY)
    for other in ("scores", "token_type"):
        found = keys.array_length(f"tokenizer.ggml.{other}", MAX_VOCABULARY)
        if found not in (0, tokens):
            raise Malformed(f"its tokenizer has {tokens} tokens, but {found} of {other}")
    return tokens


def _quantization(keys: Keys, bytes_by_type: Counter[str]) -> str:
    """The file's declared type, or else the tensor type of most of its bytes."""
    number = keys.integer("general.file_type", -1) & ~FILE_TYPE_GUESSED
    return FILE_TYPES.get(number) or bytes_by_type.most_common(1)[0][0]


def _token(keys: Keys, name: str, vocabulary: int) -> int | None:
    token = keys.integer(f"tokenizer.ggml.{name}_token_id", -1)
    return token if 0 <= token < vocabulary else None
