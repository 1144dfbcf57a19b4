"""llama-cpp-python's converter of schemas to grammars, loaded alone and mended where it is wrong."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from suite.engine.schema_forms import Schema
from suite.errors import InvalidSchema


def _converter_module() -> ModuleType:
    """llama_cpp's module alone, without the package around it and what that imports."""
    package = importlib.util.find_spec("llama_cpp")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0]) / "llama_grammar.py"
    spec = importlib.util.spec_from_file_location("_schema_converter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # As it stands it permits line breaks within strings.
    module.PRIMITIVE_RULES[
        "char"
    ].content = (
        r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F] [0-9a-fA-F])'
    )
    return module


def convert(root: Schema, definitions: Mapping[str, Schema]) -> str:
    """The grammar of a schema whose references are all in `definitions`. Raises InvalidSchema."""
    module = _converter_module()

    class Converter(module.SchemaConverter):  # type: ignore[name-defined,misc]
        """Writes constants as JSON has them, and gives definitions names that nothing else has."""

        def _format_literal(self, literal: str) -> str:
            text = json.dumps(json.loads(literal), ensure_ascii=False)
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'

        def _visit_pattern(self, rule: str, name: str) -> str:
            self._add_primitive("char", module.PRIMITIVE_RULES["char"])
            added: str = self._add_rule(name, f'"\\"" ({rule}) "\\"" space')
            return added

        def _resolve_ref(self, reference: str) -> str:
            name = names.get(reference)
            if name is None:
                name = names[reference] = f"definition{len(names)}"
                made = self.visit(definitions[reference], name)
                if made != name:
                    self._rules[name] = made
            return name

    names: dict[str, str] = {}
    converter = Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    try:
        converter.visit(root, "")
    except (AssertionError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidSchema(f"the schema cannot be made into a grammar: {error}") from None
    text: str = converter.format_grammar()
    return text
