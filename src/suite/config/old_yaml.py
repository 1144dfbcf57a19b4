"""The old services' YAML, read as it is: a block ``ModelManagerSuite``, and ``model_configs`` beside it.

The file may be a whole start-up file, in which this is one of many services, or in a group of them. What an
old file says in vain is told in sentences and is never an error; a value that cannot be used is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import yaml

from suite.config.layers import Given, Key, Layer, suggestion
from suite.errors import InvalidConfiguration

SERVICE: Final = "ModelManagerSuite"
MODELS: Final = "model_configs"
MAX_GROUPS: Final = 2
"""How deep in groups the service is looked for."""
MAX_ALIASES: Final = 1_000
MAX_KEYS: Final = 10_000

_Block: TypeAlias = Mapping[Any, Any]
_Place: TypeAlias = tuple[str, ...]
_Names: TypeAlias = Mapping[str, Key]

_SERVICE: Final[_Names] = {
    "port": ("legacy", "port"),
    "health_check_port": ("legacy", "health_check_port"),
    "dependencies": ("dependencies",),
}
_CONFIG: Final[_Names] = {
    "enable_gguf_management": ("enable_gguf_management",),
    "enable_predictive_loading": ("enable_predictive_loading",),
    "enable_model_evaluation": ("enable_model_evaluation",),
    "enable_backward_compatibility": ("enable_backward_compatibility",),
    "sqlite_db_path": ("sqlite_db_path",),
    "models_directory": ("models_directories",),
    "vram_limit_gb": ("vram_limit_gb",),
    "prediction_interval_seconds": ("prediction_interval_seconds",),
}
_STARTUP: Final[_Names] = {"wait_for_dependencies": ("wait_for_dependencies",)}
_MODEL: Final = (
    "display_name",
    "model_path",
    "context_length",
    "n_gpu_layers",
    "n_threads",
    "capabilities",
    "idle_timeout_seconds",
    "enabled",
    "priority",
)
_SERVING_METHOD: Final = "gguf_direct"

_IN_VAIN: Final = {
    "script_path": "this service is started as `suite serve`",
    "required": "who starts this service decides that",
    "order": "who starts this service decides that",
}
_IN_VAIN_OF_MODELS: Final = {
    "verbose": "what llama.cpp says goes to the log",
    "estimated_vram_mb": "memory is measured",
}
_SWITCHES: Final = tuple(name for name in _CONFIG if name.startswith("enable_"))


def read(text: str, origin: str) -> tuple[Layer, tuple[str, ...]]:
    """What an old file says, and what it says in vain.

    Raises InvalidConfiguration for what is no YAML or has no such service; values are looked at later.
    """
    document = _parsed(text, origin)
    reader = _Reader(origin)
    place, beside = _found(document, origin)
    service = (*place, SERVICE)
    reader.service(beside[SERVICE], service)
    for where, block in {(): document, place: beside}.items():
        reader.models(block.get(MODELS), (*where, MODELS))
    for where, key in _strangers(document, place):
        reader.warn_unknown(where, (SERVICE, MODELS), key)
    return reader.layer, tuple(reader.warnings)


class _Reader:
    """Turns blocks into a layer, and keeps count of what it cannot use."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self.layer: Layer = {}
        self.warnings: list[str] = []

    def service(self, value: object, place: _Place) -> None:
        """The service's own block."""
        block = self._block(value, place)
        self._take(block, place, _SERVICE, also=("config", "startup"))
        config = (*place, "config")
        self._take(self._block(block.get("config"), config), config, _CONFIG)
        if isinstance(directory := self._value(("models_directories",)), str):
            key = ("models_directories",)
            self.layer[key] = self.layer[key]._replace(value=[directory])
        startup = (*place, "startup")
        self._take(self._block(block.get("startup"), startup), startup, _STARTUP)
        for name in _SWITCHES:  # the old service did all of it, unless told otherwise
            path = _written(*config, name)
            self.layer.setdefault(_CONFIG[name], Given(True, f"{self._origin} (left out: on)", path))

    def models(self, value: object, place: _Place) -> None:
        """The models' blocks."""
        for name, its in self._block(value, place).items():
            model_id = str(name)
            here = (*place, model_id)
            self.layer["models", model_id] = Given(None, self._origin, _written(*here))
            block = self._block(its, here)
            names = {field: ("models", model_id, field) for field in _MODEL}
            self._take(block, here, names, _IN_VAIN_OF_MODELS, also=("serving_method",))
            method = block.get("serving_method")
            if method not in (None, _SERVING_METHOD):
                where = _written(*here, "serving_method")
                self.layer["models", model_id, "enabled"] = Given(False, self._origin, where)
                self.warnings.append(
                    f"{where} ({self._origin}) is not {_SERVING_METHOD}: the model is switched off, as only "
                    "GGUF files are served here"
                )

    def warn_unknown(self, place: _Place, known: tuple[str, ...], key: str) -> None:
        """Say that a key means nothing."""
        self.warnings.append(
            f"{_written(*place, key)} ({self._origin}) is not known and has no effect{suggestion(key, known)}"
        )

    def _take(
        self,
        block: _Block,
        place: _Place,
        names: _Names,
        in_vain: Mapping[str, str] = _IN_VAIN,
        also: tuple[str, ...] = (),
    ) -> None:
        for name, value in block.items():
            if name in names:
                if value is not None:
                    self.layer[names[name]] = Given(value, self._origin, _written(*place, name))
            elif name in in_vain:
                self._note(place, name, in_vain[name])
            elif name not in also:
                self.warn_unknown(place, (*names, *also), str(name))

    def _note(self, place: _Place, name: str, reason: str) -> None:
        """Say why a known key has no effect: once, of however many models it is said."""
        where = (*place[:-1], "*") if place[-2:-1] == (MODELS,) else place
        sentence = f"{_written(*where, name)} ({self._origin}) has no effect: {reason}"
        if sentence not in self.warnings:
            self.warnings.append(sentence)

    def _value(self, key: Key) -> object:
        given = self.layer.get(key)
        return given.value if given else None

    def _block(self, value: object, place: _Place) -> _Block:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            written = _written(*place)
            raise Given(value, self._origin, written).refusal(
                f"expected keys and values, got {type(value).__name__}"
            )
        return value


class _Loader(yaml.SafeLoader):
    """A safe loader, also of files that are small and mean much, as aliases of merged aliases do."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Count what stands for something else."""
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"it has more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge what `<<` names, within a limit."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_KEYS:
            raise yaml.YAMLError(f"a mapping in it has more than {MAX_KEYS} keys")


def _parsed(text: str, origin: str) -> _Block:
    try:
        document = yaml.load(text, _Loader)
    except Exception as error:  # values such as `2024-13-45` or `!!bool x` fail in whatever way Python does
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidConfiguration(f"{origin} cannot be read as YAML: {reason[:500]}") from None
    if not isinstance(document, Mapping):
        what = "nothing" if document is None else type(document).__name__
        raise InvalidConfiguration(f"{origin} has no {SERVICE}: it must be keys and values, and is {what}")
    return document


def _found(document: _Block, origin: str) -> tuple[_Place, _Block]:
    """The block that holds the service, and the path to it."""
    blocks: list[tuple[_Place, _Block]] = [((), document)]
    seen: set[int] = set()  # an alias is one object in many places
    for _ in range(MAX_GROUPS + 1):
        holding = [(place, block) for place, block in blocks if SERVICE in block]
        if len(holding) > 1:
            places = " and ".join(_written(*place, SERVICE) for place, _ in holding)
            raise InvalidConfiguration(f"{origin} has {places}: leave one of them")
        if holding:
            return holding[0]
        below: list[tuple[_Place, _Block]] = []
        for place, block in blocks:
            for name, value in block.items():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*place, str(name)), value))
        blocks = below
    raise InvalidConfiguration(
        f"{origin} has no {SERVICE}: put the service's block under that name, or write a suite.toml"
    )


def _strangers(document: _Block, place: _Place) -> Iterator[tuple[_Place, str]]:
    """Keys beside the service, or beside its groups, that are neither other services nor groups of them."""
    block: Any = document
    here: _Place = ()
    for group in (*place, SERVICE):
        for name, value in block.items():
            if str(name) == group or (name == MODELS and here in ((), place)):
                continue
            if not _is_service(value) and not _is_group(value):
                yield here, str(name)
        block = block.get(group, {})
        here = (*here, group)


def _is_service(value: object) -> bool:
    return isinstance(value, Mapping) and ("script_path" in value or "port" in value)


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_service, value.values()))


def _written(*place: str) -> str:
    """The path to a value as it stands in the file, fit to be printed."""
    return ".".join(place).encode(errors="replace").decode()
