"""Settings come from a file, the environment and flags, in this order, and each knows where it came from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import suite
from suite.bus.accounts import roles
from suite.config import RetentionSettings, Settings, load_configuration, load_settings
from suite.config.variables import OTHERS, unknown
from suite.errors import InvalidConfiguration
from suite.messages.subjects import Subjects


def toml(directory: Path, content: str) -> Path:
    file = directory / "suite.toml"
    file.write_text(content)
    return file


def refused(file: Path | None = None, **environ: str) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        load_configuration(file, environ=environ)
    return caught.value.message


def test_with_nothing_given_everything_is_the_default() -> None:
    configuration = load_configuration(environ={})
    assert configuration.settings == Settings()
    assert set(configuration.origins.values()) == {"default"}
    assert configuration.origins.keys() >= {"node", "nats.url", "legacy.port", "retention.usage_days"}
    assert configuration.warnings == ()


def test_flags_go_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        """
        memory_limit_gb = 1
        queue_limit = 1
        drain_seconds = 1
        [nats]
        user = "file"
        inbox_prefix = "file"
        """,
    )
    configuration = load_configuration(
        file,
        environ={"SUITE_MEMORY_LIMIT_GB": "2", "SUITE_QUEUE_LIMIT": "2", "SUITE_NATS_USER": "environment"},
        flags={"memory_limit_gb": 3, "node": None, "nats": {"port": 4300}, "models_directories": ("m",)},
    )
    settings, origins = configuration.settings, configuration.origins
    assert (settings.memory_limit_gb, settings.queue_limit, settings.drain_seconds) == (3, 2, 1)
    assert (settings.nats.user, settings.nats.inbox_prefix, settings.nats.port) == (
        "environment",
        "file",
        4300,
    )
    assert origins["memory_limit_gb"] == "flag --memory-limit-gb"
    assert origins["queue_limit"] == "environment SUITE_QUEUE_LIMIT"
    assert origins["drain_seconds"] == origins["nats.inbox_prefix"] == str(file)
    assert origins["nats.port"] == "flag --port"
    assert origins["models_directories"] == "flag --models-dir"
    assert origins["node"] == "default"


def test_every_setting_outside_models_has_a_variable() -> None:
    settings = load_settings(
        environ={
            "SUITE_RETENTION_METRIC_DAYS": "1.5",
            "SUITE_LEGACY_PORT": "0",
            "SUITE_LEGACY_ERROR_BUS": "tcp://10.0.0.2:7150",
            "SUITE_DEPENDENCIES": "CoreOrchestrator:Other",
            "SUITE_MODELS_DIRECTORIES": "a::b",
            "SUITE_SQLITE_DB_PATH": "~/evaluation.db",
            "SUITE_PREDICTION_INTERVAL_SECONDS": "60",
            "SUITE_NODE": "",
        }
    )
    assert settings.retention == RetentionSettings(metric_days=1.5)
    assert (settings.legacy.port, settings.legacy.error_bus) == (0, "tcp://10.0.0.2:7150")
    assert settings.dependencies == ("CoreOrchestrator", "Other")
    assert settings.models_directories == (Path("a"), Path("b"))
    assert settings.sqlite_db_path == Path.home() / "evaluation.db"
    assert settings.prediction_interval_seconds == 60
    assert settings.node == Settings().node


@pytest.mark.parametrize(
    ("text", "value"),
    [(text, True) for text in ("true", "1", "Yes", "on")]
    + [(text, False) for text in ("FALSE", "0", "no", "off")],
)
def test_switches_in_the_environment(text: str, value: bool) -> None:
    settings = load_settings(
        environ={"SUITE_ENABLE_MODEL_EVALUATION": text, "SUITE_WAIT_FOR_DEPENDENCIES": text}
    )
    assert settings.enable_model_evaluation is settings.wait_for_dependencies is value


def test_a_switch_that_is_neither_is_refused_with_its_variable() -> None:
    message = refused(SUITE_ENABLE_MODEL_EVALUATION="perhaps")
    assert "enable_model_evaluation" in message
    assert "SUITE_ENABLE_MODEL_EVALUATION" in message


def test_the_old_names_work_too(tmp_path: Path) -> None:
    configuration = load_configuration(
        toml(tmp_path, 'vram_limit_gb = 24\nmodels_directory = "old"'), environ={}
    )
    assert configuration.settings.vram_limit_gb == 24
    assert configuration.settings.models_directories == (Path("old"),)
    assert configuration.origins["vram_limit_gb"] == str(tmp_path / "suite.toml")
    overridden = load_settings(
        tmp_path / "suite.toml", environ={"SUITE_VRAM_LIMIT_GB": "12", "SUITE_MODELS_DIRECTORY": "new"}
    )
    assert (overridden.vram_limit_gb, overridden.models_directories) == (12, (Path("new"),))


def test_an_old_name_beside_the_new_one_is_refused_in_one_place_only(tmp_path: Path) -> None:
    message = refused(toml(tmp_path, 'models_directory = "a"\nmodels_directories = ["b"]'))
    assert "models_directory" in message
    assert "models_directories" in message
    assert "SUITE_MODELS_DIRECTOR" in refused(SUITE_MODELS_DIRECTORY="a", SUITE_MODELS_DIRECTORIES="b")
    file = toml(tmp_path, 'models_directory = "a"')
    assert load_settings(file, environ={"SUITE_MODELS_DIRECTORIES": "b"}).models_directories == (Path("b"),)


@pytest.mark.parametrize(
    ("content", "path", "reason"),
    [
        ("memory_limit_gb = 'much'", "memory_limit_gb", "a number"),
        ("memory_limit_gb = nan", "memory_limit_gb", "> 0"),
        ("idle_timeout_seconds = inf", "idle_timeout_seconds", "<="),
        ("idle_timeout_seconds = nan", "idle_timeout_seconds", "a number"),
        ("drain_seconds = 1_000_000_000_000_000_000_000_000", "drain_seconds", "a number"),
        ("queue_limit = 2.5", "queue_limit", "a whole number"),
        ("enable_gguf_management = 2", "enable_gguf_management", "true or false"),
        ("legacy.port = 70000", "legacy.port", "65535"),
        ("retention.usage_days = -1", "retention.usage_days", ">= 0"),
        ("dependencies = ['a', 5]", "dependencies[1]", "text"),
        ("dependencies = ['a', 'b c']", "dependencies[1]", "regex"),
        ("dependencies = ['core.orchestrator']", "dependencies[0]", "regex"),
        ('dependencies = ["a\\n"]', "dependencies[0]", "regex"),
        ("models_directories = ['']", "models_directories", "path"),
        ('data_dir = "a\\u0000b"', "data_dir", "path"),
        ("data_dir = '~nobody-of-this-name/data'", "data_dir", "path"),
        ("node = ''", "node", "bytes"),
        ('subject_root = "suite\\n"', "subject_root", "regex"),
        ("trace = 'paper'", "trace", "none of off, local, console, otlp"),
        ("trace = 'otpl'", "trace", "did you mean otlp?"),
        ("metrics = 'prometheus'", "metrics", "none of off, console, otlp"),
        ("nats = 5", "nats", "table"),
        ("nats.url = 'nats://[::1'", "nats.url", "address"),
        ("models.phi = 5", 'models."phi"', "table"),
        ("[models.'phi.3']\ncontext_length = -4", 'models."phi.3".context_length', ">= 1"),
        ("[models.phi]\npriority = 1.5", 'models."phi".priority', "a whole number or text"),
        (f"[models.{'a' * 300}]", "models.", "300 bytes"),
        ("[models.phi]\ncontext_lenght = 4", 'models."phi".context_lenght', "context_length?"),
        ("nats.urls = 'x'", "nats.urls", "did you mean url?"),
        ("[modells.phi]\nslots = 1", "modells", "did you mean models?"),
        ("[retentoin]\nusage_days = 1", "retentoin", "did you mean retention?"),
        ("url = 'nats://a'", "url", "did you mean nats.url?"),
        (
            "[nats]\nmemory_limit_gb = 3",
            "nats.memory_limit_gb",
            "did you mean memory_limit_gb above all tables?",
        ),
        ("context_length = 9", "context_length", 'did you mean models."<id>".context_length?'),
        ("[models]\ncontext_length = 9", 'models."context_length"', 'under [models."<id>"]'),
        ("[[models]]\nid = 'phi'", "models", 'under [models."<id>"]'),
        ("[models.phi-3.5]\nslots = 1", 'models."phi-3".5', "stands in quotes"),
        ('"a\\nb" = 1', '"a\\nb"', "not known"),
        ("colour = 'red'", "colour", "not known"),
        ("[models", "suite.toml", "TOML"),
        (f"node = {'[' * 5000}", "suite.toml", "TOML"),
        (f"port = {'9' * 5000}", "suite.toml", "TOML"),
    ],
)
def test_what_is_wrong_is_refused_with_the_path_to_it(
    tmp_path: Path, content: str, path: str, reason: str
) -> None:
    message = refused(toml(tmp_path, content))
    assert path in message
    assert reason in message
    assert "\n" not in message
    assert str(tmp_path / "suite.toml") in message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'node = "caf\xe9"')
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    for name in ("latin.toml", "long.toml", "."):
        assert "cannot be read" in refused(tmp_path / name)
    assert refused(tmp_path / "absent.toml") == f"there is no file {tmp_path / 'absent.toml'}"


def test_a_variable_that_nothing_reads_is_refused_with_the_nearest_name() -> None:
    message = refused(SUITE_MEMROY_LIMIT_GB="12")
    assert message == (
        "SUITE_MEMROY_LIMIT_GB is not known (environment): unset it; did you mean SUITE_MEMORY_LIMIT_GB?"
    )
    assert (
        refused(SUITE_MODELS_PHI_SLOTS="3") == "SUITE_MODELS_PHI_SLOTS is not known (environment): unset it"
    )


def test_variables_that_are_empty_or_of_others_are_no_typos() -> None:
    others = {
        "SUITE_COLOUR": "",
        "SUITEMATE": "1",
        "_SUITE_COMPLETE": "bash_source",
        # Kubernetes sets these where there are Services `suite` and `suite-nats`.
        "SUITE_SERVICE_HOST": "10.0.0.1",
        "SUITE_SERVICE_PORT_CLIENT": "4222",
        "SUITE_PORT": "tcp://10.0.0.1:4222",
        "SUITE_PORT_4222_TCP_ADDR": "10.0.0.1",
        "SUITE_NATS_PORT": "tcp://10.0.0.2:4222",
        "SUITE_NATS_PORT_4222_TCP": "tcp://10.0.0.2:4222",
    }
    configuration = load_configuration(environ=others)
    assert configuration.settings == Settings()
    assert configuration.origins["nats.port"] == "default"
    assert load_settings(environ=others | {"SUITE_NATS_PORT": "4300"}).nats.port == 4300


def test_every_variable_that_any_part_reads_is_known() -> None:
    sources = Path(suite.__file__).parent.rglob("*.py")
    read = {
        name
        for path in sources
        for name in re.findall(r'(?:environ|getenv|VARIABLE)\W[^\n"]*"(SUITE_[A-Z_]+)"', path.read_text())
    }
    assert read >= {"SUITE_NATS_READER_USER", "SUITE_DATA_DIR"}
    of_deployment = {f"SUITE_{role.upper()}_PASSWORD" for role in roles(Subjects())}
    known = load_configuration(environ=dict.fromkeys(OTHERS, "x"))
    assert known.settings == Settings()
    assert list(unknown(dict.fromkeys(read | of_deployment, "x"))) == []


def test_bytes_that_are_no_text_may_stand_in_a_path_only() -> None:
    assert load_settings(environ={"SUITE_DATA_DIR": "data\udcff"}).data_dir == Path("data\udcff")
    assert "SUITE_NATS_USER" in refused(SUITE_NATS_USER="box\udcff")


def test_a_model_of_which_nothing_is_said_is_configured(tmp_path: Path) -> None:
    configuration = load_configuration(toml(tmp_path, "[models.phi]"), environ={})
    assert list(configuration.settings.models) == ["phi"]
    assert configuration.origins['models."phi".slots'] == "default"


def test_credentials_in_a_url_are_taken_out_of_it_and_of_each_in_a_list() -> None:
    configuration = load_configuration(environ={"SUITE_NATS_URL": "nats://box:se%40cret@a:4222,nats://c:d@b"})
    nats = configuration.settings.nats
    assert (nats.url, nats.user, nats.password) == ("nats://a:4222,nats://b", "box", "se@cret")
    assert configuration.origins["nats.password"] == "environment SUITE_NATS_URL"


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    message = refused(SUITE_NATS_URL="nats://box:secret@[::1")
    assert "nats.url" in message
    assert "secret" not in message


def test_retention_in_seconds_keeps_for_ever_or_a_second_at_least() -> None:
    retention = RetentionSettings(metric_days=1, usage_days=0, error_days=0.000001, admission_days=2)
    assert retention.seconds() == {"metric": 86400, "usage": 0, "error": 1, "admission": 172800, "breaker": 1}
