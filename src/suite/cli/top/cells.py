"""What stands in the cells of ``suite top``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.text import Text

from suite.cli.nodes import named
from suite.cli.output import printable
from suite.cli.top.now import Memory, NodeNow, Now
from suite.explanation.words import counted
from suite.messages.actions.status import GenerationInfo, ModelInfo
from suite.units import size

BAR: Final = 16
"""Letters of a bar."""
_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "red")
_WEIGHTS, _CACHE, _RESERVE, _FREE = "█", "▓", "▒", "·"

NODE_COLUMNS: Final = ("node", "state", "memory █ weights ▓ cache ▒ rest", "cores", "tok/s")
MODEL_COLUMNS: Final = ("model", "state", "memory", "run", "wait", "node", "pin")
GENERATION_COLUMNS: Final = ("generation", "model", "state", "tokens", "seconds", "client")


def summary(now: Now) -> str:
    """All nodes in one line."""
    loaded = sum(model.status == "loaded" for model in now.models.values())
    generating = len(now.generations) - now.waiting
    return (
        f"{counted(len(now.nodes), 'node')}   {loaded} of {counted(len(now.models), 'model')} loaded   "
        f"{generating} generating, {now.waiting} waiting   {now.rate:.1f} tokens/s"
    )


def node_rows(now: Now) -> dict[str, tuple[Text, ...]]:
    """A row for each memory of each node."""
    colours = _colours(now)
    return {
        key: cells
        for node in now.nodes
        for key, cells in zip(_node_keys(node), _of_node(node, colours), strict=True)
    }


def node_of(key: str) -> str:
    """The node that a row is about."""
    return key.partition("/")[0]


def model_rows(now: Now, wanted: str = "") -> dict[str, tuple[Text, ...]]:
    """A row for each model whose id has this text in it: first those with a process or with requests."""
    models = [model for model in now.models.values() if wanted.casefold() in model.model_id.casefold()]
    models.sort(key=lambda model: (not (model.instances or model.waiting), model.model_id))
    return {model.model_id: _of_model(model) for model in models}


def nothing_found(now: Now, wanted: str) -> str:
    """What is said in the place of models where a filter shows none; empty where there is no need to."""
    if not wanted or model_rows(now, wanted):
        return ""
    return f"no id of {counted(len(now.models), 'model')} has {wanted!r} in it: Escape shows all"


def generation_rows(now: Now) -> dict[str, tuple[Text, ...]]:
    """A row for each generation, the oldest first."""
    ordered = sorted(now.generations, key=lambda each: (-each.elapsed_ms, each.generation_id))
    return {each.generation_id: _of_generation(each) for each in ordered}


def bar(memory: Memory, colours: Mapping[str, str]) -> Text:
    """What models have of a memory: a colour for each model, a shade for what it is used for."""
    text = Text()
    full = max(memory.limit, memory.reserved, 1)
    end = drawn = 0
    for part in memory.parts:
        for letter, count in ((_WEIGHTS, part.weights), (_CACHE, part.cache), (_RESERVE, part.reserve)):
            end += count
            letters = round(end / full * BAR) - drawn
            text.append(letter * letters, colours.get(part.model_id, ""))
            drawn += letters
    return text.append(_FREE * (BAR - drawn), "dim")


def _colours(now: Now) -> Mapping[str, str]:
    """A colour for each model with a process, the same as long as no other begins before it."""
    ids = sorted(model.model_id for model in now.models.values() if model.instances)
    return {id: _COLOURS[place % len(_COLOURS)] for place, id in enumerate(ids)}


def _node_keys(node: NodeNow) -> Sequence[str]:
    return [f"{node.name}/{memory.name}" for memory in node.memories] or [node.name]


def _of_node(node: NodeNow, colours: Mapping[str, str]) -> Iterable[tuple[Text, ...]]:
    state = Text(node.state, "" if node.state == "healthy" else "bold red")
    if not node.memories:
        yield _plain(node.name), state, Text(""), Text(""), Text("")
        return
    for place, memory in enumerate(node.memories):
        used = Text.assemble(
            bar(memory, colours), f" {size(memory.reserved)} of {size(memory.limit)}", _gpu(memory)
        )
        if place:
            yield Text(""), Text(""), used, Text(""), Text("")
        else:
            yield (
                _plain(node.name),
                state,
                used,
                Text(f"{node.threads} of {node.cores}"),
                _right(f"{node.rate:.1f}"),
            )


def _gpu(memory: Memory) -> str:
    return "" if memory.name == "ram" else f" {memory.name}"


def _of_model(model: ModelInfo) -> tuple[Text, ...]:
    reserved = sum(each.reserved_bytes for each in model.instances)
    return (
        _plain(model.model_id),
        _state(model),
        _right(size(reserved) if reserved else ""),
        _right(_count(sum(each.running for each in model.instances))),
        _right(_count(model.waiting)),
        Text(named([each.node for each in model.instances])),
        Text("pin" if model.pinned else ""),
    )


def _state(model: ModelInfo) -> Text:
    """The state, with how far a load is; of a model that cannot be loaded, that."""
    if model.quarantine is not None:
        return Text("quarantined", "red")
    loading = [each.load_progress for each in model.instances]
    if model.status == "loading" and loading:
        return Text(f"loading {int(max(loading) * 100)} %", "yellow")
    styles = {"loaded": "green", "loading": "yellow", "unloading": "yellow", "invalid": "red"}
    return Text(model.status, styles.get(model.status, "dim"))


def _of_generation(each: GenerationInfo) -> tuple[Text, ...]:
    return (
        _plain(each.generation_id),
        _plain(each.model_id),
        Text(each.state, "" if each.state == "generating" else "yellow"),
        _right("" if each.completion_tokens is None else str(each.completion_tokens)),
        _right(f"{each.elapsed_ms / 1000:.1f}"),
        _plain(each.client or ""),
    )


def _plain(text: str) -> Text:
    return Text(printable(text))


def _right(text: str) -> Text:
    return Text(text, justify="right")


def _count(number: int) -> str:
    return str(number) if number else ""
