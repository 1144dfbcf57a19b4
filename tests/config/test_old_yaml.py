"""The old YAML starts the service as it is: what has no effect is told, a wrong value refused by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.config import Configuration, ModelSettings, load_configuration
from suite.errors import InvalidConfiguration

CONTRACT = """
ModelManagerSuite:
  script_path: services/model_manager_suite.py
  port: 7011
  health_check_port: 7111
  required: true
  dependencies: [CoreOrchestrator]
  config:
    enable_gguf_management: true
    enable_predictive_loading: true
    enable_model_evaluation: true
    sqlite_db_path: "data/model_evaluation.db"
    models_directory: "models/"
    vram_limit_gb: 24
    prediction_interval_seconds: 300
    enable_backward_compatibility: true
  startup: {order: 2, wait_for_dependencies: true}
model_configs:
  some-model:
    display_name: Some Model
    model_path: some.Q4.gguf
    context_length: 2048
    n_gpu_layers: -1
    n_threads: 4
    verbose: false
    estimated_vram_mb: 4000
    capabilities: [chat, code]
    idle_timeout_seconds: 300
    serving_method: gguf_direct
    enabled: true
    priority: high
"""


def configured(directory: Path, content: str, **environ: str) -> Configuration:
    file = directory / "startup_config.yaml"
    file.write_text(content)
    return load_configuration(file, environ=environ)


def refused(directory: Path, content: str) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        configured(directory, content)
    assert "startup_config.yaml" in caught.value.message
    return caught.value.message


def test_the_block_of_the_contract(tmp_path: Path) -> None:
    configuration = configured(tmp_path, CONTRACT)
    settings, origins = configuration.settings, configuration.origins
    assert (settings.legacy.port, settings.legacy.health_check_port) == (7011, 7111)
    assert settings.dependencies == ("CoreOrchestrator",)
    assert settings.wait_for_dependencies
    assert settings.enable_gguf_management
    assert settings.enable_predictive_loading
    assert settings.enable_model_evaluation
    assert settings.enable_backward_compatibility
    assert settings.sqlite_db_path == Path("data/model_evaluation.db")
    assert settings.models_directories == (Path("models"),)
    assert (settings.vram_limit_gb, settings.prediction_interval_seconds) == (24, 300)
    assert settings.models == {
        "some-model": ModelSettings(
            display_name="Some Model",
            model_path="some.Q4.gguf",
            context_length=2048,
            n_threads=4,
            capabilities=("chat", "code"),
            idle_timeout_seconds=300,
            priority="high",
        )
    }
    for path in ("vram_limit_gb", "legacy.port", 'models."some-model".context_length'):
        assert origins[path] == str(tmp_path / "startup_config.yaml")
    assert origins['models."some-model".slots'] == "default"


def test_what_has_no_effect_is_told_by_its_path(tmp_path: Path) -> None:
    warnings = configured(tmp_path, CONTRACT).warnings
    told = [warning.split()[0] for warning in warnings]
    assert sorted(told) == [
        "ModelManagerSuite.required",
        "ModelManagerSuite.script_path",
        "ModelManagerSuite.startup.order",
        "model_configs.*.estimated_vram_mb",
        "model_configs.*.verbose",
    ]
    assert all("has no effect" in warning for warning in warnings)


def test_unknown_keys_are_warned_about_and_harm_nothing(tmp_path: Path) -> None:
    configuration = configured(
        tmp_path,
        """
        global_settings: {environment: x}
        ModelManagerSuite:
          colour: red
          config: {vram_limt_gb: 3, 5: five}
          startup: {delay: 1}
        model_configs:
          m: {flash: true}
        """,
    )
    told = {warning.split()[0]: warning for warning in configuration.warnings}
    assert told.keys() == {
        "global_settings",
        "ModelManagerSuite.colour",
        "ModelManagerSuite.config.vram_limt_gb",
        "ModelManagerSuite.config.5",
        "ModelManagerSuite.startup.delay",
        "model_configs.m.flash",
    }
    assert "did you mean vram_limit_gb?" in told["ModelManagerSuite.config.vram_limt_gb"]
    assert configuration.settings.memory_limit_gb is None


@pytest.mark.parametrize("block", ["ModelManagerSuite:", "ModelManagerSuite: {config: }"])
def test_what_is_left_out_is_as_the_old_service_had_it(tmp_path: Path, block: str) -> None:
    configuration = configured(tmp_path, block)
    for switch in ("gguf_management", "model_evaluation", "predictive_loading", "backward_compatibility"):
        assert getattr(configuration.settings, f"enable_{switch}") is True
        assert "startup_config.yaml (left out" in configuration.origins[f"enable_{switch}"]
    assert configuration.warnings == ()


def test_switches_are_as_written_and_the_environment_goes_before(tmp_path: Path) -> None:
    content = (
        "ModelManagerSuite: {config: {enable_backward_compatibility: false, enable_model_evaluation: no}}"
    )
    configuration = configured(
        tmp_path, content, SUITE_ENABLE_MODEL_EVALUATION="yes", SUITE_LEGACY_PORT="7012"
    )
    assert not configuration.settings.enable_backward_compatibility
    assert configuration.settings.enable_model_evaluation
    assert configuration.settings.legacy.port == 7012
    assert configuration.origins["enable_model_evaluation"] == "environment SUITE_ENABLE_MODEL_EVALUATION"


@pytest.mark.parametrize(
    "content",
    [
        "CoreOrchestrator: {port: 7000}\nModelManagerSuite: {port: 7013}\nmodel_configs: {m: {}}",
        "core:\n  CoreOrchestrator: {port: 7000}\nmodels:\n  ModelManagerSuite: {port: 7013}\n"
        "  model_configs: {m: {}}",
        "agent_groups:\n  models:\n    ModelManagerSuite: {port: 7013}\nmodel_configs: {m: {}}",
    ],
)
def test_a_whole_start_up_file_is_read_for_its_one_service(tmp_path: Path, content: str) -> None:
    configuration = configured(tmp_path, content)
    assert configuration.settings.legacy.port == 7013
    assert list(configuration.settings.models) == ["m"]
    assert configuration.warnings == ()


def test_two_of_the_service_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, "a: {ModelManagerSuite: {}}\nb: {ModelManagerSuite: {}}")
    assert "a.ModelManagerSuite and b.ModelManagerSuite" in message


def test_what_is_not_served_from_a_file_is_switched_off(tmp_path: Path) -> None:
    content = (
        "ModelManagerSuite:\nmodel_configs: {m: {serving_method: ollama, enabled: true}, n: {enabled: false}}"
    )
    configuration = configured(tmp_path, content)
    assert not configuration.settings.models["m"].enabled
    assert not configuration.settings.models["n"].enabled
    (warning,) = configuration.warnings
    assert "model_configs.m.serving_method" in warning
    assert "switched off" in warning


def test_defaults_may_be_merged_in(tmp_path: Path) -> None:
    content = """
    ModelManagerSuite:
    model_configs:
      a: &a {n_threads: 2, context_length: 1024}
      b: {<<: *a, context_length: 512}
    """
    models = configured(tmp_path, content).settings.models
    assert (models["b"].n_threads, models["b"].context_length) == (2, 512)


@pytest.mark.parametrize(
    ("content", "path", "reason"),
    [
        (
            "ModelManagerSuite: {config: {vram_limit_gb: much}}",
            "ModelManagerSuite.config.vram_limit_gb",
            "a number",
        ),
        (
            "ModelManagerSuite: {config: {vram_limit_gb: .nan}}",
            "ModelManagerSuite.config.vram_limit_gb",
            "> 0",
        ),
        (f"ModelManagerSuite: {{port: {'9' * 400}}}", "ModelManagerSuite.port", "65535"),
        ("ModelManagerSuite: {port: 2024-01-01}", "ModelManagerSuite.port", "date"),
        ("ModelManagerSuite: {port: true}", "ModelManagerSuite.port", "true or false"),
        ("ModelManagerSuite: {dependencies: [a, [b]]}", "ModelManagerSuite.dependencies[1]", "text"),
        ("ModelManagerSuite: {dependencies: Core}", "ModelManagerSuite.dependencies", "a list"),
        ("ModelManagerSuite: {dependencies: &a [*a]}", "ModelManagerSuite.dependencies[0]", "text"),
        ("ModelManagerSuite: {config: [1]}", "ModelManagerSuite.config", "keys and values"),
        ("ModelManagerSuite: 5", "ModelManagerSuite", "keys and values"),
        (
            "ModelManagerSuite: {config: {models_directory: 5}}",
            "ModelManagerSuite.config.models_directory",
            "a list",
        ),
        (
            "g: {ModelManagerSuite: {config: {enable_model_evaluation: 5}}}",
            "g.ModelManagerSuite.config.",
            "true or false",
        ),
        ("ModelManagerSuite:\nmodel_configs: [a]", "model_configs", "keys and values"),
        ("ModelManagerSuite:\nmodel_configs: {m: 5}", "model_configs.m", "keys and values"),
        ("ModelManagerSuite:\nmodel_configs: {m: {n_threads: 0}}", "model_configs.m.n_threads", ">= 1"),
        ("ModelManagerSuite:\nmodel_configs: {m: {display_name: 5}}", "model_configs.m.display_name", "text"),
        ('ModelManagerSuite:\nmodel_configs: {m: {display_name: "\\ud800"}}', "m.display_name", "Unicode"),
        ('ModelManagerSuite:\nmodel_configs: {"\\ud800": {}}', "model_configs.?", "Unicode"),
    ],
)
def test_a_wrong_value_is_refused_by_its_path_in_the_file(
    tmp_path: Path, content: str, path: str, reason: str
) -> None:
    message = refused(tmp_path, content)
    assert path in message
    assert reason in message


def bomb(levels: int, item: str) -> str:
    """A document that doubles ten times a level."""
    lines = [f"a0: &a0 {item}"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + (f"[{inner}]" if item == "x" else f"{{<<: [{inner}]}}"))
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "nothing"),
        ("- ModelManagerSuite", "list"),
        ("ModelManagerSuite", "str"),
        ("SomeOtherService: {port: 1}", "no ModelManagerSuite"),
        ("a: {b: {c: {ModelManagerSuite: }}}", "no ModelManagerSuite"),
        ("ModelManagerSuite: {config: [}", "cannot be read as YAML"),
        ("ModelManagerSuite: {port: !!python/object:os.system {}}", "cannot be read as YAML"),
        ("ModelManagerSuite: {port: 2024-13-45}", "cannot be read as YAML"),
        (f"ModelManagerSuite: {{port: {'9' * 5000}}}", "cannot be read as YAML"),
        ("ModelManagerSuite: {required: !!bool perhaps}", "cannot be read as YAML"),
        ("ModelManagerSuite: {port: !!int ''}", "cannot be read as YAML"),
        ("ModelManagerSuite: {port: !!timestamp x}", "cannot be read as YAML"),
        ("ModelManagerSuite: *nothing", "cannot be read as YAML"),
        ("? [a]\n: b", "cannot be read as YAML"),
        ("[" * 1000, "cannot be read as YAML"),
        ("a: \x01", "cannot be read as YAML"),
        ("a: &a 1\nb: [" + "*a, " * 1001 + "]", "aliases"),
        (bomb(20, "{" + ", ".join(f"k{n}: 1" for n in range(10)) + "}"), "more than 10000 keys"),
    ],
)
def test_what_is_no_such_file_is_refused_and_told_what_it_is(
    tmp_path: Path, content: str, reason: str
) -> None:
    assert reason in refused(tmp_path, content)


def test_a_bomb_of_aliases_is_as_small_as_its_file(tmp_path: Path) -> None:
    configuration = configured(
        tmp_path, bomb(50, "x") + "\nModelManagerSuite: {dependencies: [a], extra: *a49}"
    )
    assert "ModelManagerSuite.extra" in {warning.split()[0] for warning in configuration.warnings}
    assert "dependencies" in refused(tmp_path, bomb(50, "x") + "\nModelManagerSuite: {dependencies: *a49}")
