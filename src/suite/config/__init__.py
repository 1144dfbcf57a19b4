"""Settings: from a file, overridden by environment variables, overridden by command-line flags.

``suite.toml``::

    memory_limit_gb = 12
    models_directories = ["models"]

    [models."SmolLM2-135M-Instruct.Q4_1"]
    context_length = 4096
    aliases = ["small"]

Each value outside ``[models]`` has an environment variable: ``SUITE_MEMORY_LIMIT_GB=12``, and
``SUITE_NATS_URL`` for ``url`` of ``[nats]``. Lists are separated as the PATH is. A file whose name ends in
``.yaml`` or ``.yml`` is an old one (`suite.config.old_yaml`).
"""

from suite.config.connection_file import ConnectionFile, ReaderCredentials
from suite.config.loading import Configuration, load_configuration, load_settings
from suite.config.settings import (
    DEFAULT_SLOTS,
    TRACES,
    FollowLinks,
    LegacySettings,
    LogFormat,
    ModelSettings,
    NatsSettings,
    RetentionSettings,
    Settings,
    chosen_data_dir,
    default_data_dir,
)
from suite.config.url import split_url

__all__ = [
    "DEFAULT_SLOTS",
    "TRACES",
    "Configuration",
    "ConnectionFile",
    "FollowLinks",
    "LegacySettings",
    "LogFormat",
    "ModelSettings",
    "NatsSettings",
    "ReaderCredentials",
    "RetentionSettings",
    "Settings",
    "chosen_data_dir",
    "default_data_dir",
    "load_configuration",
    "load_settings",
    "split_url",
]
