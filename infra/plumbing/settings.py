"""Settings: one file per process, decoded into a struct and checked before anything starts."""

from pathlib import Path
from typing import TypeVar

import msgspec

from infra.plumbing.errors import SettingsError

S = TypeVar("S", bound=msgspec.Struct)


def load_settings(path: Path, settings_type: type[S]) -> S:
    """The settings in `path` (.toml or .json), checked against `settings_type`.

    Raises:
        SettingsError: the file is missing, is not valid TOML/JSON, or a field is missing, unknown or of the wrong type.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}.") from error
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        return decode(content, type=settings_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the settings file {path} is not usable: {error}.",
            fix=f"It must hold the fields of {settings_type.__name__}.",
        ) from error
