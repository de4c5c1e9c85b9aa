"""A dataset that is learned in seconds: everybody walks around the same ring of items."""

from pathlib import Path

REGIONS = ("us-east", "us-central", "us-west")
COLOURS = ("red", "green", "blue", "grey", "white")
USERS, ITEMS, STEPS = 150, 90, 40


def write_ring(folder: Path) -> Path:
    """A plain dataset folder with USERS users of three regions, each STEPS steps along ITEMS items; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    walks = [
        f"u{user},i{(7 * user + step) % ITEMS},{1000 * step + user}" for user in range(USERS) for step in range(STEPS)
    ]
    homes = [f"u{user},{REGIONS[user % len(REGIONS)]}" for user in range(USERS)]
    colours = [f"i{item},Item {item},{COLOURS[item % len(COLOURS)]}" for item in range(ITEMS)]
    for name, header, rows in (
        ("interactions.csv", "user_id,item_id,timestamp", walks),
        ("users.csv", "user_id,region", homes),
        ("items.csv", "item_id,title,category", colours),
    ):
        (folder / name).write_text("\n".join([header, *rows]) + "\n")
    return folder
