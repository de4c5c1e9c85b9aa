"""A dataset that is learned in seconds: everybody walks around the same ring of items."""

from pathlib import Path

REGIONS = ("us-east", "us-central", "us-west")
COLOURS = ("red", "green", "blue", "grey", "white")
USERS, ITEMS, STEPS = 150, 90, 40


def write_tastes(folder: Path) -> Path:
    """A plain dataset folder where everybody likes one colour: each user takes STEPS items of it, in a walk."""
    each = 3 * STEPS
    walks = [
        f"u{user},i{user % len(COLOURS) + len(COLOURS) * ((5 * user + step) % each)},{1000 * step + user}"
        for user in range(USERS)
        for step in range(STEPS)
    ]
    homes = [f"u{user},{REGIONS[user % len(REGIONS)]}" for user in range(USERS)]
    colours = [f"i{item},Item {item},{COLOURS[item % len(COLOURS)]}" for item in range(each * len(COLOURS))]
    return _written(folder, walks, homes, colours)


def write_ring(folder: Path) -> Path:
    """A plain dataset folder with USERS users of three regions, each STEPS steps along ITEMS items; returns it."""
    walks = [
        f"u{user},i{(7 * user + step) % ITEMS},{1000 * step + user}" for user in range(USERS) for step in range(STEPS)
    ]
    homes = [f"u{user},{REGIONS[user % len(REGIONS)]}" for user in range(USERS)]
    colours = [f"i{item},Item {item},{COLOURS[item % len(COLOURS)]}" for item in range(ITEMS)]
    return _written(folder, walks, homes, colours)


def _written(folder: Path, walks: list[str], homes: list[str], colours: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, header, rows in (
        ("interactions.csv", "user_id,item_id,timestamp", walks),
        ("users.csv", "user_id,region", homes),
        ("items.csv", "item_id,title,category", colours),
    ):
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder
