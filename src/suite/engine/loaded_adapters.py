"""The LoRA adapters that one model has in memory, and those that its context computes with."""

from __future__ import annotations

import ctypes
from typing import Final, TypeAlias

from suite.engine.adapters import NO_ADAPTERS, Adapter, AdapterSet
from suite.engine.bindings import last_messages, lib
from suite.errors import GenerationFailed

Pointer: TypeAlias = "ctypes._Pointer[ctypes.c_void_p]"
"""An adapter in llama.cpp's memory."""

MOST: Final = 16
"""How many adapters stay in memory; one set may have more. The least recently used ones leave first."""


class LoadedAdapters:
    """Loads adapters when they are first used. llama.cpp frees those that are left with the model."""

    def __init__(self, model: int, context: int) -> None:
        self._model = model
        self._context = context
        self._loaded: dict[str, Pointer] = {}
        """By the digests of their files, the most recently used last."""
        self._applied = NO_ADAPTERS

    def load(self, wanted: AdapterSet) -> None:
        """Have these adapters in memory. Raises GenerationFailed if one of them cannot be loaded."""
        for each in wanted.adapters:
            self._load(each)
        self._keep_to_most()

    def use(self, wanted: AdapterSet) -> None:
        """Have the context compute with these adapters from now on; a change costs it a new graph.

        Raises GenerationFailed if one of them cannot be loaded, which changes nothing.
        """
        if wanted.key == self._applied.key:
            return
        found = [self._load(each) for each in wanted.adapters]
        self._apply(found, [each.scale for each in wanted.adapters])
        self._applied = wanted
        self._keep_to_most()

    def _load(self, adapter: Adapter) -> Pointer:
        loaded = self._loaded.pop(adapter.content, None)
        if loaded is None:
            last_messages()
            loaded = lib.llama_adapter_lora_init(self._model, adapter.path.encode())
            if not loaded:
                raise GenerationFailed(
                    f"llama.cpp could not load an adapter: {last_messages() or 'it gave no reason'}"
                )
        self._loaded[adapter.content] = loaded
        return loaded

    def _apply(self, adapters: list[Pointer], scales: list[float]) -> None:
        count = len(adapters)
        pointers = (lib.llama_adapter_lora_p_ctypes * count)(*adapters)
        code = lib.llama_set_adapters_lora(self._context, pointers, count, (ctypes.c_float * count)(*scales))
        if code:
            raise GenerationFailed(f"llama.cpp could not apply adapters (code {code}): {last_messages()}")

    def _keep_to_most(self) -> None:
        """Free those that have not been used for longest, of those that are not applied."""
        applied = {each.content for each in self._applied.adapters}
        surplus = max(0, len(self._loaded) - MOST)
        for content in [each for each in self._loaded if each not in applied][:surplus]:
            lib.llama_adapter_lora_free(self._loaded.pop(content))
