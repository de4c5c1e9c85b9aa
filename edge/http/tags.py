"""Entity tags (RFC 9110, section 8.8.3)."""


def names_tag(if_none_match: str, etag: str) -> bool:
    """Weak comparison of RFC 9110, section 13.1.2: `*`, or a tag of the list that equals ours without its `W/`."""
    tags = (part.strip() for part in if_none_match.split(","))
    return any(tag == "*" or tag.removeprefix("W/") == etag for tag in tags)
