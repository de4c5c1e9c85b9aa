"""What keeps a node's keys, as its settings say."""

from pathlib import Path

from region.keeping.files import FileKeys
from region.keeping.wrapping import FileWrapping, Wrapping
from region.settings import RegionSettings


def open_wrapping(settings: RegionSettings) -> Wrapping:
    """The region's root key: its key file.

    Raises:
        SettingsError: the file is missing or is no key file.
    """
    return FileWrapping(Path(settings.keys_file))


def open_file_keys(settings: RegionSettings) -> FileKeys:
    """The keys of the files in the state directory. Raises as `open_wrapping`."""
    return FileKeys(open_wrapping(settings))
