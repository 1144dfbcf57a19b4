"""What inspection says of good files, and what it refuses."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from suite.engine.gguf.file import inspect
from suite.engine.gguf.ggml import FILE_TYPES, TENSOR_TYPES
from suite.errors import ModelFileGone, ModelFileIncomplete, ModelFileInvalid
from support.models import CHAT_TEMPLATE, gemma, smollm2, tiny_model
from support.raw_gguf import BOOL, KEYS, STRING, UINT32, Raw, Tensor, array, gguf_bytes, scalar, text


def write(directory: Path, content: bytes, name: str = "model.gguf") -> Path:
    path = directory / name
    path.write_bytes(content)
    return path


def test_a_real_model_is_described() -> None:
    info = inspect(smollm2())
    assert (info.architecture, info.parameters, info.quantization) == ("llama", 134_515_008, "Q4_1")
    assert (info.context_tokens, info.block_count, info.embedding_length) == (8192, 30, 576)
    assert (set(info.head_counts), set(info.kv_head_counts)) == ({9}, {3})
    assert (info.key_length, info.value_length, info.feed_forward_length) == (64, 64, 1536)
    assert (info.vocabulary, info.merges, info.bos_token, info.eos_token) == (49_152, 48_900, 1, 2)
    assert info.chat_template is not None
    assert "<|im_start|>" in info.chat_template
    assert info.capabilities == ("chat",)
    assert info.file_bytes == smollm2().stat().st_size


def test_a_model_without_a_template_cannot_chat() -> None:
    info = inspect(gemma())
    assert (info.architecture, info.quantization, info.vocabulary) == ("gemma3", "Q4_K_M", 262_144)
    assert (info.chat_template, info.capabilities) == (None, ())


@pytest.mark.parametrize(
    "make", [lambda _: smollm2(), lambda path: tiny_model(path, chat_template=CHAT_TEMPLATE)]
)
def test_a_full_reader_sees_the_same(make: type[Path], tmp_path: Path) -> None:
    path = make(tmp_path / "tiny.gguf")
    info = inspect(path)
    reader = gguf.GGUFReader(path)
    assert info.parameters == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert info.tensor_bytes == sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert info.chat_template == reader.fields["tokenizer.chat_template"].contents()
    assert info.name == reader.fields["general.name"].contents()
    assert info.vocabulary == len(reader.fields["tokenizer.ggml.tokens"].data)


def test_the_tables_of_types_are_llama_cpps_own() -> None:
    names = gguf.GGMLQuantizationType
    for kind in names:
        known = TENSOR_TYPES[kind.value]
        assert known.name == kind.name
        if kind is not names.Q8_1:  # the package counts two floats where ggml has two halves
            assert (known.block_values, known.block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    for file_type in gguf.LlamaFileType:
        if file_type is not gguf.LlamaFileType.GUESSED:
            assert FILE_TYPES[file_type.value] == file_type.name.removeprefix("ALL_").removeprefix("MOSTLY_")


@pytest.mark.parametrize("version", [2, 3])
def test_versions_2_and_3_are_read(version: int, tmp_path: Path) -> None:
    assert inspect(write(tmp_path, gguf_bytes(version=version))).parameters == 128


def test_numbers_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    content = gguf_bytes({"llama.attention.head_count": [4, 0], "llama.attention.head_count_kv": [2, 0]})
    info = inspect(write(tmp_path, content))
    assert (info.head_counts, info.kv_head_counts) == ((4, 0), (2, 0))


def test_an_encoder_is_for_embeddings(tmp_path: Path) -> None:
    info = inspect(write(tmp_path, gguf_bytes({"llama.attention.causal": False})))
    assert info.capabilities == ("embedding",)


def test_an_architecture_that_only_encodes_need_not_say_so(tmp_path: Path) -> None:
    keys = {key.replace("llama.", "t5encoder."): value for key, value in KEYS.items()}
    changes = {**dict.fromkeys(KEYS), **keys, "general.architecture": "t5encoder"}
    info = inspect(write(tmp_path, gguf_bytes(changes)))
    assert (info.causal, info.generates, info.embeds) == (False, False, True)


def test_a_model_without_attention_needs_no_heads(tmp_path: Path) -> None:
    content = gguf_bytes({"llama.attention.head_count": None, "llama.attention.head_count_kv": None})
    with pytest.raises(ModelFileInvalid, match=r"no key 'llama\.attention\.head_count'"):
        inspect(write(tmp_path, content))
    recurrent = gguf_bytes(
        {
            "llama.attention.head_count": None,
            "llama.attention.head_count_kv": None,
            "llama.ssm.state_size": 16,
        }
    )
    assert inspect(write(tmp_path, recurrent)).kv_head_counts == (0, 0)


def test_without_a_file_type_the_tensors_tell_the_quantization(tmp_path: Path) -> None:
    tensors = (Tensor(), Tensor("output.weight", (256, 64), type=12, offset=512))
    content = gguf_bytes({"general.file_type": None}, tensors=tensors, data=512 + 64 * 144)
    assert inspect(write(tmp_path, content)).quantization == "Q4_K"


def test_special_tokens_outside_the_vocabulary_are_none(tmp_path: Path) -> None:
    info = inspect(write(tmp_path, gguf_bytes({"tokenizer.ggml.bos_token_id": 4})))
    assert (info.bos_token, info.eos_token) == (None, 2)


def test_a_text_that_is_too_long_is_stepped_over(tmp_path: Path) -> None:
    info = inspect(write(tmp_path, gguf_bytes({"tokenizer.chat_template": "x" * (1 << 20 | 1)})))
    assert (info.chat_template, info.architecture) == (None, "llama")


def _part(number: int, parts: int, changes: dict[str, int] | None = None) -> bytes:
    keys = {"split.no": number, "split.count": parts, "split.tensors.count": parts} | (changes or {})
    return gguf_bytes(keys, tensors=(Tensor(f"blk.{number}.attn_q.weight"),))


def test_the_parts_of_a_split_model_count_together(tmp_path: Path) -> None:
    paths = [write(tmp_path, _part(number, 3), f"big-{number + 1:05}-of-00003.gguf") for number in range(3)]
    info = inspect(paths[0])
    assert (info.parameters, info.tensor_bytes) == (3 * 128, 3 * 512)
    assert info.parts == tuple(path.name for path in paths)
    assert info.file_bytes == sum(path.stat().st_size for path in paths)


def test_a_split_model_must_be_whole_and_in_order(tmp_path: Path) -> None:
    first = write(tmp_path, _part(0, 2), "big-00001-of-00002.gguf")
    with pytest.raises(ModelFileInvalid, match=r"part big-00002-of-00002\.gguf is missing"):
        inspect(first)
    second = write(tmp_path, _part(1, 2), "big-00002-of-00002.gguf")
    assert inspect(first).parameters == 256
    with pytest.raises(ModelFileInvalid, match="name the first"):
        inspect(second)
    second.write_bytes(_part(0, 2))
    with pytest.raises(ModelFileInvalid, match="says that it is another"):
        inspect(first)
    second.write_bytes(
        gguf_bytes({"split.no": 1, "split.count": 2}, tensors=(Tensor("blk.0.attn_q.weight"),))
    )
    with pytest.raises(ModelFileInvalid, match="repeats tensors"):
        inspect(first)


HUGE = (1 << 64) - 1
TOKENS = "tokenizer.ggml.tokens"

BAD = {
    "empty": (b"", "it is empty"),
    "text": (b"# a read-me, not a model\n", "does not begin with 'GGUF'"),
    "only zeros": (bytes(4096), "its beginning was not written yet"),
    "two bytes": (b"GG", "does not begin with 'GGUF'"),
    "only the magic": (b"GGUF", "truncated"),
    "version 1": (gguf_bytes(version=1), "GGUF version 1; versions 2 and 3 are read"),
    "version 4": (gguf_bytes(version=4), "GGUF version 4"),
    "version 0": (gguf_bytes(version=0), "GGUF version 0"),
    "big-endian": (gguf_bytes(version=3 << 24), "big-endian"),
    "keys beyond counting": (gguf_bytes(keys=HUGE), "claims to have 18446744073709551615 key values"),
    "more keys than bytes": (gguf_bytes(keys=60_000), "claims to have 60000 key values"),
    "tensors beyond counting": (gguf_bytes(tensor_count=HUGE), "18446744073709551615 tensors"),
    "more keys than there are": (gguf_bytes(keys=13), "truncated|claims|damaged"),
    "endless key": (gguf_bytes(keys=13, more=struct.pack("<Q", HUGE)), "a key claims to have"),
    "endless text": (
        gguf_bytes({"general.name": Raw(struct.pack("<IQ", STRING, HUGE))}),
        "'?general.name'? would end at byte",
    ),
    "endless array": (gguf_bytes({"x": array(UINT32, HUGE)}), "x would end at byte"),
    "endless array of texts": (
        gguf_bytes({TOKENS: array(STRING, HUGE)}),
        "claims to have 18446744073709551615",
    ),
    "texts that do not fit": (
        gguf_bytes({TOKENS: array(STRING, 4, text("a") * 3 + struct.pack("<Q", 1 << 40))}),
        "end",
    ),
    "tokens beyond belief": (
        gguf_bytes({TOKENS: array(UINT32, (1 << 22) + 1, bytes(4 << 22 | 4))}),
        "claims to have 4194305 elements",
    ),
    "array of arrays": (gguf_bytes({"x": array(9, 1, struct.pack("<IQ", UINT32, 0))}), "array of arrays"),
    "unknown kind of value": (gguf_bytes({"x": Raw(struct.pack("<I", 13))}), "unknown type 13"),
    "key twice": (
        gguf_bytes(keys=13, more=text("llama.block_count") + scalar(UINT32, 1).data),
        "occurs twice",
    ),
    "alignment 0": (gguf_bytes({"general.alignment": 0}), "not a power of two"),
    "alignment 48": (gguf_bytes({"general.alignment": 48}), "alignment of 48 is not a power of two"),
    "alignment as text": (gguf_bytes({"general.alignment": "32"}), "not a power of two"),
    "alignment true": (gguf_bytes({"general.alignment": scalar(BOOL, 1)}), "not a power of two"),
    "no tensors": (gguf_bytes(tensors=()), "has no tensors"),
    "five dimensions": (gguf_bytes(tensors=(Tensor(dimensions=(32, 1, 1, 1, 1)),)), "has 5 dimensions"),
    "no dimensions": (gguf_bytes(tensors=(Tensor(dimensions=()),)), "has 0 dimensions"),
    "empty dimension": (gguf_bytes(tensors=(Tensor(dimensions=(32, 0)),)), "impossible dimensions"),
    "product that overflows": (
        gguf_bytes(tensors=(Tensor(dimensions=(1 << 32, 1 << 31, 2)),)),
        "impossible dimensions",
    ),
    "unknown tensor type": (gguf_bytes(tensors=(Tensor(type=99),)), "type 99, which llama.cpp does not know"),
    "removed tensor type": (
        gguf_bytes(tensors=(Tensor(type=31),)),
        "type 31, which llama.cpp no longer supports",
    ),
    "half a block": (
        gguf_bytes(tensors=(Tensor(dimensions=(48, 2), type=2),)),
        "rows of 48, not a multiple of 32",
    ),
    "tensor twice": (gguf_bytes(tensors=(Tensor(), Tensor(offset=512)), data=1024), "occurs twice"),
    "long tensor name": (gguf_bytes(tensors=(Tensor(name="x" * 64),)), "claims to have 64 bytes"),
    "tensor out of place": (
        gguf_bytes(tensors=(Tensor(offset=32),), data=1024),
        "at offset 32 instead of 0",
    ),
    "truncated tensors": (gguf_bytes(data=511), "truncated: tensor 'token_embd.weight' ends at byte"),
    "no architecture": (gguf_bytes({"general.architecture": None}), "no key 'general.architecture'"),
    "architecture as number": (
        gguf_bytes({"general.architecture": 1}),
        "'general.architecture' is not a text",
    ),
    "another architecture's keys": (
        gguf_bytes({"general.architecture": "qwen2"}),
        "no key 'qwen2.block_count'",
    ),
    "no layers": (gguf_bytes({"llama.block_count": 0}), "'llama.block_count' is 0"),
    "layers beyond belief": (gguf_bytes({"llama.block_count": 513}), "'llama.block_count' is 513"),
    "layers as text": (gguf_bytes({"llama.block_count": "2"}), "not a whole number"),
    "layers as truth": (gguf_bytes({"llama.block_count": True}), "not a whole number"),
    "layers as array": (gguf_bytes({"llama.block_count": [2]}), "not a whole number"),
    "no context": (gguf_bytes({"llama.context_length": None}), "no key 'llama.context_length'"),
    "context of nothing": (gguf_bytes({"llama.context_length": 0}), "'llama.context_length' is 0"),
    "heads for other layers": (
        gguf_bytes({"llama.attention.head_count": [4, 4, 4]}),
        "3 numbers for 2 layers",
    ),
    "more heads than width": (gguf_bytes({"llama.attention.head_count": 64}), "64 heads for a width of 32"),
    "heads beyond belief": (gguf_bytes({"llama.attention.head_count": 1 << 31}), "is 2147483648"),
    "not a number": (gguf_bytes({"llama.attention.layer_norm_rms_epsilon": float("nan")}), "is nan"),
    "no tokenizer": (gguf_bytes({"tokenizer.ggml.model": "none"}), "has no tokenizer"),
    "no tokens": (gguf_bytes({TOKENS: None}), "has no tokenizer"),
    "scores for other tokens": (gguf_bytes({"tokenizer.ggml.scores": [1, 2]}), "4 tokens, but 2 of scores"),
    "projector": (gguf_bytes({"general.type": "mmproj"}), "a multimodal projector, not a model"),
    "parts beyond belief": (gguf_bytes({"split.count": 60_000}), "'split.count' is 60000"),
}

UNFINISHED = ("empty", "only the magic", "only zeros", "truncated tensors")
"""Of these, those that may be on their way."""


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, reason = BAD[case]
    with pytest.raises(ModelFileInvalid, match=reason) as refused:
        inspect(write(tmp_path, content))
    unfinished = isinstance(refused.value, ModelFileIncomplete)
    assert unfinished == (case in UNFINISHED)
    state = "not whole" if unfinished else "not a model that can be loaded"
    assert refused.value.message.startswith(f"model.gguf is {state}: ")


def test_a_long_reason_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ModelFileInvalid) as refused:
        inspect(write(tmp_path, gguf_bytes({"k" * 60_000: Raw(struct.pack("<I", 13))})))
    assert len(refused.value.message) < 500


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileGone):
        inspect(tmp_path / "gone.gguf")
    directory = tmp_path / "directory.gguf"
    directory.mkdir()
    with pytest.raises(ModelFileInvalid, match="it is a directory"):
        inspect(directory)
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)
    with pytest.raises(ModelFileInvalid, match="not a regular file"):  # opening it would wait for a writer
        inspect(pipe)


def test_a_header_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = gguf_bytes(data=512)
    for length in range(0, len(content), 7):
        with pytest.raises(ModelFileInvalid):
            inspect(write(tmp_path, content[:length]))


def test_inspection_brings_neither_llama_cpp_nor_numpy_along() -> None:
    code = (
        "import sys, suite.engine.gguf.estimate, suite.catalogue; "
        "print({'llama_cpp', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
