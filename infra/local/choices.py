"""What `[regions.settings]` of a `world.toml` tells a region's processes: files found, and written as TOML again."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from infra.plumbing.errors import SettingsError

S = TypeVar("S", bound=msgspec.Struct)


def anchored(settings: S, base: Path) -> S:
    """`settings` with every file that they name (fields that end in `_file`) taken from `base` where it is relative.

    Raises:
        SettingsError: one of the files is not there.
    """
    changed: dict[str, Any] = {}
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, msgspec.Struct):
            changed[name] = anchored(value, base)
        elif name.endswith("_file") and value:
            changed[name] = str(base / value)
            if not (base / value).is_file():
                raise SettingsError(
                    f"{name} is {value!r}, and there is no file {base / value}.",
                    fix="Relative paths start at the folder of world.toml.",
                )
    return msgspec.structs.replace(settings, **changed)


def told(settings: msgspec.Struct) -> list[str]:
    """A line of TOML for each field that is not as by default."""
    plain = type(settings)()
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return [
        f"{name} = {_toml(msgspec.to_builtins(value))}"
        for name, value in values.items()
        if value != getattr(plain, name)
    ]


def _toml(value: Any) -> str:
    """Builtins as an inline value. None, which TOML has not, is what a field is that is left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items() if one is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # A JSON string, number or boolean is a valid one of TOML.
    return msgspec.json.encode(value).decode()
