"""The operator's commands for published items as functions. They block; those that call a region say so."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.tls import ClientTls
from infra.plumbing.tuf_client.delegation import STATEMENT_BYTES_MAX
from region.additions.messages import NewItem, PublishedItemsAnswer, PublishItemsAnswer, PublishItemsCall
from region.additions.published import (
    DOCUMENT_BYTES_MAX,
    ITEMS_FILE,
    Posting,
    as_published,
    read_item_file,
    write_item_file,
)
from region.publishing.signing import signed_statement
from region.releases.commands import call_region

PUBLISH_S = 60.0


def published(url: str, key: str, tls: ClientTls | None = None) -> PublishedItemsAnswer:
    """Calls the region at `url`: the file that holds there, and what it would be with what was posted and withdrawn."""
    return call_region("GET", url, "items/published", key, tls, PublishedItemsAnswer, timeout_s=PUBLISH_S)


def collected(
    answer: PublishedItemsAnswer, region: str, *, added: Sequence[NewItem] = (), left_out: Sequence[str] = (),
    withdrawn: Sequence[str] = (), restored: Sequence[str] = (), posting: Posting | None = None, now_ms: int = 0,
) -> str:  # fmt: skip
    """The text of a file to review, sign and publish: what the region collected, changed by the arguments.

    Args:
        answer: of the region.
        region: its name.
        added: items to list, in place of items of the same id.
        left_out: items to list no more.
        withdrawn: items to show to nobody.
        restored: items to withdraw no more.
        posting: whether the door shall take items beside these; None: as before.
        now_ms: when those of `added` came that are not listed yet.

    Raises:
        InvalidInputError: the outcome is out of bounds.
    """
    file = read_item_file(answer.collected, region)
    hidden = (set(file.withdrawn) | set(withdrawn)) - set(restored)
    listed = {one.item: one for one in file.items}
    for one in added:
        came_ms = listed[one.item].added_at_ms if one.item in listed else 0
        listed[one.item] = as_published(one, added_at_ms=came_ms or now_ms)
    items = tuple(one for name, one in listed.items() if name not in hidden and name not in left_out)
    file = msgspec.structs.replace(
        file, items=items, withdrawn=tuple(sorted(hidden)), posting=posting or file.posting
    )  # fmt: skip
    text = write_item_file(file)
    read_item_file(text, region)
    return text


def sign(document: str, region: str, keys: Sequence[Path], *, version: int, clock: Clock) -> str:
    """What `keys` say about `document`; calls nobody.

    Raises:
        InvalidInputError: it is no file of items of `region`, or there is no key.
        KeysError: a key cannot be used.
    """
    read_item_file(document, region)
    if not keys:
        raise InvalidInputError(
            f"there is no key to sign the items of {region} with.",
            fix=f"Make one: ./atoll rules key --region {region}; or name one: --signing-key FILE.",
        )
    return signed_statement(ITEMS_FILE, document, region, keys, version=version, clock=clock)


def publish(
    url: str, key: str, tls: ClientTls | None = None, *, document: str, statement: str = ""
) -> PublishItemsAnswer:
    """Calls the region at `url`: make `document` its published items."""
    call = PublishItemsCall(document=document, statement=statement)
    return call_region("POST", url, "items/publish", key, tls, PublishItemsAnswer, call, timeout_s=PUBLISH_S)


def read_text(path: Path, *, bytes_max: int = max(DOCUMENT_BYTES_MAX, STATEMENT_BYTES_MAX)) -> str:
    """The text of the file at `path`.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8 or too long.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise InvalidInputError(f"{path} is longer than {bytes_max} bytes.")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}.") from error
