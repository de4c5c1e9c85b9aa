"""Scanning captured links for anything that must not have crossed (MISSION F3). Pure: bytes in, report out.

Every byte is searched raw. On top of that HTTP messages are parsed: chunks are joined, content encodings undone,
compressed streams, archives, arrays and tables opened wherever they begin, JSON and MessagePack looked into. What could
not be looked into is counted, never passed over.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from infra.local.residency.contract_fields import resident_names
from infra.local.residency.fields import as_ids, find_beside_names, find_in_columns
from infra.local.residency.forms import NEEDLE_BYTES_MIN
from infra.local.residency.http_messages import HttpMessage, UndecodableError, decoded_views, parse_stream
from infra.local.residency.needles import NeedleSet
from infra.local.residency.packed import embedded_packed
from infra.local.residency.structure import EVENT_SHAPE, Wanted, documents, embedded, find_in_document
from infra.local.residency.unwrapping import unwrapped
from infra.local.wan.capture import Direction, cut_count, read_capture

LEAKS_MAX = 1000
Secrets = Mapping[str, Iterable[str | bytes]]


class Leak(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Something that must not be there. Says where, never what: a report may be shown to anyone."""

    link: str
    kind: str
    """Kind of the secret, or `field NAME`."""
    where: str


class ResidencyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan looked at and found. Holds only when `clean`."""

    bytes_scanned: int
    """Of the wire, both directions."""
    bytes_decoded: int
    """Looked at in addition, after encodings were undone."""
    bytes_cut: int
    """Crossed, but were not kept in the capture."""
    links: int
    connections: int
    messages: int
    streams_unparsed: int
    """Directions that were not, or not to their end, HTTP/1.1; they were searched raw."""
    bodies_undecodable: int
    secrets: int
    """Forms of secrets that were looked for."""
    leaks: tuple[Leak, ...]
    leaks_total: int

    @property
    def clean(self) -> bool:
        """Nothing found, and nothing left unseen."""
        return self.leaks_total == 0 and self.bytes_cut == 0 and self.bodies_undecodable == 0


@dataclass(slots=True)
class Findings:
    """Leaks, each place once, at most LEAKS_MAX of them kept."""

    leaks: set[Leak] = field(default_factory=set)
    total: int = 0

    def add(self, link: str, kind: str, where: str) -> None:
        """Count a leak, keep it while there is room."""
        leak = Leak(link=link, kind=kind, where=where)
        if leak not in self.leaks:
            self.total += 1
            if len(self.leaks) < LEAKS_MAX:
                self.leaks.add(leak)


class Searcher:
    """Knows all secrets in all their forms; searches bytes, texts and documents."""

    def __init__(self, secrets: Secrets) -> None:
        held = {kind: list(values) for kind, values in secrets.items()}
        self.needles = NeedleSet(held)
        self._ids = as_ids(value for values in held.values() for value in values)
        self._kind_of = {_text(value): kind for kind, values in held.items() for value in values}
        long = {text: kind for text, kind in self._kind_of.items() if len(text) >= NEEDLE_BYTES_MIN}
        self._wanted = Wanted(resident_names=resident_names(), exact=long, ids=self._kind_of)
        self._wanted_inbound = Wanted(resident_names=frozenset(), exact=long, ids=self._kind_of)

    def search_bytes(self, data: bytes) -> Iterator[tuple[str, str]]:
        """(kind, place) of secrets in `data`, in any form."""
        for position, needle in self.needles.find(data):
            yield needle.kind, f"byte {position} ({needle.form})"
        for position, name in find_beside_names(data, self._ids):
            yield "id beside a name", f"byte {position} ({name})"

    def search_body(self, body: bytes, *, leaving: bool) -> Iterator[tuple[str, str]]:
        """(kind, place) of what a plain body says by its structure. `leaving`: it goes out of a region."""
        whole = list(documents(body))
        wanted = self._wanted if leaving else self._wanted_inbound
        for document in whole or embedded(body):
            yield from find_in_document(document, wanted)
        for document in () if whole else embedded_packed(body, wanted.resident_names):
            yield from _told(document, wanted)
        for row, column in find_in_columns(body, self._ids):
            yield "id in a column", f"row {row} ({column})"


def _told(document: object, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """What a MessagePack value from the middle of a stream says; one name alone may be chance, two in one are not."""
    found = list(find_in_document(document, wanted))
    if any(kind == EVENT_SHAPE for kind, _ in found) or len({kind for kind, _ in found}) > 1:
        yield from ((kind, f"MessagePack inside, {path}") for kind, path in found)


def scan(captures: Mapping[str, bytes], secrets: Secrets) -> ResidencyReport:
    """Search capture files for secrets and for resident fields.

    Args:
        captures: content of capture files by link name (`us-east--us-west`, `us-east--central`).
        secrets: what must not be found, by kind: pseudonyms (32 hex digits), user ids, event ids, session ids, tokens.
            Values of fewer than 8 characters are found where they stand as the value of a telling name.

    Raises:
        InvalidInputError: a capture is not a capture file.
        ImportError: the contracts cannot be loaded.
    """
    return scan_with(captures, Searcher(secrets))


def scan_with(captures: Mapping[str, bytes], searcher: Searcher) -> ResidencyReport:
    """`scan` with secrets that were made ready before. Raises as it does."""
    findings = Findings()
    totals: dict[str, int] = defaultdict(int)
    for link, content in captures.items():
        _scan_link(link, content, searcher, findings, totals)
    return ResidencyReport(
        bytes_scanned=totals["scanned"],
        bytes_decoded=totals["decoded"],
        bytes_cut=totals["cut"],
        links=len(captures),
        connections=totals["connections"],
        messages=totals["messages"],
        streams_unparsed=totals["unparsed"],
        bodies_undecodable=totals["undecodable"],
        secrets=searcher.needles.count,
        leaks=tuple(sorted(findings.leaks)),
        leaks_total=findings.total,
    )


def _scan_link(link: str, content: bytes, searcher: Searcher, findings: Findings, totals: dict[str, int]) -> None:
    streams: dict[tuple[int, Direction], list[bytes]] = defaultdict(list)
    connection, numbers = 0, dict[int, int]()
    for record in read_capture(content):
        if record.direction is Direction.CUT:
            totals["cut"] += cut_count(record)
        elif record.direction is Direction.OPENED:
            # Numbers begin anew when the link's process does: the file's own count tells connections apart.
            connection += 1
            numbers[record.connection] = connection
        else:
            streams[numbers.get(record.connection, 0), record.direction].append(record.payload)
    totals["connections"] += connection
    for number in sorted({number for number, _ in streams}):
        out = b"".join(streams.get((number, Direction.OUT), ()))
        back = b"".join(streams.get((number, Direction.BACK), ()))
        _scan_connection(link, number, (out, back), searcher, findings, totals)


def _scan_connection(
    link: str, number: int, streams: tuple[bytes, bytes], searcher: Searcher, findings: Findings, totals: dict[str, int]
) -> None:
    out, back = streams
    requests = parse_stream(out)
    answers = parse_stream(back, answers_to=[message.method for message in requests.messages])
    # What central answers comes into a region; what another region answers leaves that region.
    answers_leave = not link.partition("--")[2].startswith("central")
    for name, stream, parsed, leaving in (
        ("request", out, requests, True),
        ("answer", back, answers, answers_leave),
    ):
        totals["scanned"] += len(stream)
        totals["messages"] += len(parsed.messages)
        totals["unparsed"] += parsed.bytes_unparsed > 0
        for kind, place in searcher.search_bytes(stream):
            findings.add(link, kind, f"connection {number}, {name}s, {place}")
        for index, message in enumerate(parsed.messages):
            where = f"connection {number}, {name} {index}"
            for kind, place in _search_message(message, searcher, totals, leaving=leaving):
                findings.add(link, kind, f"{where}, {place}")
        # What is no message is looked into as it is.
        rest = stream[len(stream) - parsed.bytes_unparsed :]
        for kind, place in searcher.search_body(rest, leaving=leaving):
            findings.add(link, kind, f"connection {number}, {name}s, {place}")


def _search_message(
    message: HttpMessage, searcher: Searcher, totals: dict[str, int], *, leaving: bool
) -> Iterator[tuple[str, str]]:
    plain = message.body
    head = b"\n".join([message.start_line, *(value.encode("latin-1") for _, value in message.headers)])
    for kind, place in searcher.search_body(head, leaving=leaving):
        yield kind, f"head, {place}"
    try:
        for name, view in decoded_views(message):
            totals["decoded"] += len(view)
            plain = view
            for kind, place in searcher.search_bytes(view):
                yield kind, f"{name}, {place}"
        for name, view in unwrapped(plain):
            totals["decoded"] += len(view)
            for kind, place in searcher.search_bytes(view):
                yield kind, f"{name}, {place}"
            for kind, place in searcher.search_body(view, leaving=leaving):
                yield kind, f"{name}, {place}"
    except UndecodableError:
        totals["undecodable"] += 1
    for kind, place in searcher.search_body(plain, leaving=leaving):
        yield kind, f"body, {place}"


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
