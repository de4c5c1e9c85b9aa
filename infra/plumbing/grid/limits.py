"""What the embedded adapters refuse before it is sent anywhere."""

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.port import KEY_BYTES_MAX, VALUE_BYTES_MAX


def check_key(key: str) -> None:
    """Refuse an empty or too long key or topic.

    Raises:
        InvalidInputError: it is empty, has more than KEY_BYTES_MAX bytes, or is no Unicode text (a lone surrogate).
    """
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError("a grid key must be Unicode text.") from error
    if not 0 < size <= KEY_BYTES_MAX:
        raise InvalidInputError(f"a grid key must have 1 to {KEY_BYTES_MAX} bytes.")


def check_value(value: bytes) -> None:
    """Refuse a value or message that is too large.

    Raises:
        InvalidInputError: it has more than VALUE_BYTES_MAX bytes.
    """
    if len(value) > VALUE_BYTES_MAX:
        raise InvalidInputError(f"a grid value must have at most {VALUE_BYTES_MAX} bytes.")
