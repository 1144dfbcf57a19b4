"""The estimate against what llama.cpp itself allocates."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from suite.engine.gguf.estimate import PROCESS_BYTES, estimate
from suite.engine.gguf.file import inspect
from support.models import gemma, smollm2, tiny_model

# llama.cpp runs in a process of its own: it prints its buffers, and may abort
PROBE = """
import ctypes, sys
import llama_cpp.llama_cpp as lib
lines = []
@lib.llama_log_callback
def keep(level, text, data): lines.append(text.decode("utf-8", "replace"))
lib.llama_log_set(keep, ctypes.c_void_p(0))
model_params = lib.llama_model_default_params(); model_params.n_gpu_layers = 0
model = lib.llama_model_load_from_file(sys.argv[1].encode(), model_params)
params = lib.llama_context_default_params()
streams = int(sys.argv[3])
params.n_ctx, params.n_batch, params.n_seq_max = int(sys.argv[2]) * streams, 512, streams
params.kv_unified, params.swa_full = streams == 1, True
assert lib.llama_init_from_model(model, params)
print("".join(lines))
"""


def allocated(path: Path, context: int, streams: int = 1) -> tuple[float, float]:
    """KV and compute buffer by llama.cpp's log, bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path), str(context), str(streams)],
        capture_output=True,
        text=True,
        check=True,
    )

    def total(name: str) -> float:
        return (
            sum(float(size) for size in re.findall(rf"{name} buffer size = +([\d.]+) MiB", done.stdout))
            * 2**20
        )

    return total("KV"), total("compute")


@pytest.mark.parametrize("context", [512, 2048, 8192])
def test_smollm2_takes_what_was_estimated(context: int) -> None:
    kv, compute = allocated(smollm2(), context)
    guess = estimate(inspect(smollm2()), cache_tokens=context, batch_tokens=512, slots=0)
    assert guess.kv_bytes == pytest.approx(kv, rel=0.001)
    assert guess.compute_bytes - PROCESS_BYTES == pytest.approx(compute, rel=0.12)


def test_a_window_model_takes_a_full_cache() -> None:
    kv, compute = allocated(gemma(), 2048)
    guess = estimate(inspect(gemma()), cache_tokens=2048, batch_tokens=512, slots=0)
    assert guess.kv_bytes == pytest.approx(kv, rel=0.001)
    assert guess.compute_bytes - PROCESS_BYTES == pytest.approx(compute, rel=0.03)


@pytest.mark.parametrize("path", [smollm2, gemma], ids=["smollm2", "gemma"])
def test_separate_streams_take_a_cache_each_and_compute_with_one(path: Callable[[], Path]) -> None:
    kv, compute = allocated(path(), 1000, streams=8)
    guess = estimate(inspect(path()), cache_tokens=1000, batch_tokens=512, slots=0, streams=8)
    assert guess.kv_bytes == pytest.approx(kv, rel=0.001)
    assert guess.compute_bytes - PROCESS_BYTES == pytest.approx(compute, rel=0.12)


def test_a_small_vocabulary_leaves_the_feed_forward_as_the_widest_step(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "wide.gguf", embedding=128, feed_forward=2048, context=4096)
    kv, compute = allocated(path, 4096)
    guess = estimate(inspect(path), cache_tokens=4096, batch_tokens=512, slots=0)
    assert guess.kv_bytes == pytest.approx(kv, rel=0.001)
    assert guess.compute_bytes - PROCESS_BYTES == pytest.approx(compute, rel=0.03)


def test_each_setting_counts(tmp_path: Path) -> None:
    info = inspect(tiny_model(tmp_path / "tiny.gguf"))
    one = estimate(info, cache_tokens=256, batch_tokens=128)
    assert one.weights_bytes > info.tensor_bytes
    assert estimate(info, cache_tokens=512, batch_tokens=128).kv_bytes == 2 * one.kv_bytes
    assert estimate(info, cache_tokens=1, batch_tokens=128).kv_bytes == one.kv_bytes  # cells come by 256
    assert estimate(info, cache_tokens=256, batch_tokens=256).compute_bytes > one.compute_bytes
    assert estimate(info, cache_tokens=256, batch_tokens=128, slots=8).compute_bytes > one.compute_bytes
    batches = [estimate(info, cache_tokens=256, batch_tokens=size).compute_bytes for size in (512, 4096)]
    assert batches[0] == batches[1]  # llama.cpp computes 512 at once at most


def test_an_encoder_keeps_no_cache(tmp_path: Path) -> None:
    info = msgspec.structs.replace(inspect(tiny_model(tmp_path / "tiny.gguf")), causal=False)
    assert estimate(info, cache_tokens=256, batch_tokens=128).kv_bytes == 0
