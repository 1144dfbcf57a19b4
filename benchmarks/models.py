"""The model files of the benchmarks: those that `make` fetches, and further quantizations made from them.

A model that is quantized coarser computes less for each token, so that what a service adds shows more; and
benchmarks of many models need many files.

    python benchmarks/models.py     # makes all of MADE_IDS, each once
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

from suite.engine.bindings import lib

_ROOT = Path(__file__).parent.parent
FETCHED = Path(os.environ.get("SUITE_TEST_MODELS", _ROOT / ".models"))
MADE = _ROOT / "build" / "models"

MODEL_IDS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1", "gemma3": "gemma-3-270m-it-Q4_K_M"}
MADE_IDS = {
    "smollm2-q4_0": "SmolLM2-135M-Instruct.Q4_0",
    "smollm2-q8_0": "SmolLM2-135M-Instruct.Q8_0",
    "gemma3-q4_0": "gemma-3-270m-it-Q4_0",
}
"""Ids of models that `model_file` makes."""


def directories() -> tuple[Path, ...]:
    """Those that a service must have to serve all of these models."""
    MADE.mkdir(parents=True, exist_ok=True)
    return FETCHED, MADE


def model_file(model_id: str) -> Path:
    """The file of a model, which is made first where it is a quantization that nobody has made yet."""
    fetched, made = (directory / f"{model_id}.gguf" for directory in directories())
    if fetched.exists():
        return fetched
    if not made.exists():
        _quantize(_source_of(model_id), made, _quantization(model_id))
    return made


def _source_of(model_id: str) -> Path:
    """The file that was fetched of the same model."""
    base = model_id.removesuffix(_quantization(model_id))
    return FETCHED / f"{next(id for id in MODEL_IDS.values() if id.startswith(base))}.gguf"


def _quantization(model_id: str) -> str:
    return re.split("[.-]", model_id)[-1]


def _quantize(source: Path, target: Path, quantization: str) -> None:
    """Make a model file. Who makes the same one meanwhile does no harm: the last one stays."""
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.allow_requantize = True
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if lib.llama_model_quantize(os.fsencode(source), os.fsencode(unfinished), ctypes.byref(params)):
            raise SystemExit(f"llama.cpp could not make {target} from {source}")
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    for made_id in MADE_IDS.values():
        sys.stdout.write(f"{model_file(made_id)}\n")
