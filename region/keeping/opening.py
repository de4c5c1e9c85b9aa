"""What keeps a node's keys, as its settings say."""

from pathlib import Path

from infra.plumbing.clock import SystemClock
from region.keeping.enveloping import ServiceWrapping
from region.keeping.files import FileKeys
from region.keeping.key_service import TransitKey
from region.keeping.wrapping import FileWrapping, Wrapping
from region.settings import RegionSettings


def open_wrapping(settings: RegionSettings) -> Wrapping:
    """The region's root key: its key file, or a key service.

    Raises:
        SettingsError: the file is missing or is no key file, or the service's settings cannot be used.
    """
    file = FileWrapping(Path(settings.keys_file))
    if settings.key_service is None:
        return file
    clock = SystemClock()
    root = TransitKey(settings.key_service, clock=clock)
    return ServiceWrapping(root, settings.key_service, before=file, clock=clock)


def open_file_keys(settings: RegionSettings) -> FileKeys:
    """The keys of the files in the state directory. Raises as `open_wrapping`."""
    return FileKeys(open_wrapping(settings))
