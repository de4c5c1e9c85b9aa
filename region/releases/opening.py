"""The node's way to central: one client of the release repository, from settings."""

from contextlib import AsyncExitStack
from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.errors import SettingsError
from infra.plumbing.tuf_client.client import ReleaseClient
from region.settings import RegionSettings


def open_client(settings: RegionSettings, stack: AsyncExitStack, clock: Clock) -> ReleaseClient:
    """A client of the repository; `stack` closes it. Makes the state directory.

    Raises:
        SettingsError: the state directory cannot be made, or the trusted root cannot be read.
    """
    state = Path(settings.state_directory)
    try:
        state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"the state directory {state} cannot be made: {error.strerror}.") from error
    client = ReleaseClient(
        repository_url=settings.repository_url, trusted_root=_trusted_root(settings), metadata_dir=state / "tuf",
        clock=clock, tls=settings.repository_tls,
    )  # fmt: skip
    stack.callback(client.close)
    return client


def _trusted_root(settings: RegionSettings) -> bytes:
    try:
        return Path(settings.trusted_root).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the trusted root {settings.trusted_root} cannot be read: {error.strerror}.",
            fix="It comes with the installation; without it no release can be verified.",
        ) from error
