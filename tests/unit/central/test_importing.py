"""Import: what is good arrives whole and canonical; what is bad is refused with its place, and nothing is left."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from central.commands import describe_dataset, import_dataset, validate_dataset
from central.datasets.importing import CARD
from central.datasets.interactions import load_dataset, read_card
from central.datasets.rows import region_of_zip_code
from central.datasets.text import DatasetError
from central.training.config import default_config
from infra.contracts.extracts import SequenceExtract, sequences_file
from infra.contracts.residency import ExportPolicy, encode_extract
from infra.plumbing.errors import ConflictError
from infra.plumbing.progress import SilentProgress
from tests.unit.central.conftest import synthetic_rows, write_csv, write_synthetic


def replace_line(path: Path, number: int, content: bytes) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = content
    path.write_bytes(b"\n".join(lines))


def truncate(path: Path, lines: int) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty file": (lambda f: (f / "interactions.csv").write_bytes(b""), "interactions.csv is empty"),
    "header only": (lambda f: truncate(f / "interactions.csv", 1), "holds no interaction"),
    "missing column": (
        lambda f: replace_line(f / "interactions.csv", 1, b"user_id,thing,timestamp,value"),
        "column item_id is missing",
    ),
    "column twice": (
        lambda f: replace_line(f / "interactions.csv", 1, b"user_id,item_id,timestamp,timestamp"),
        "named twice",
    ),
    "too few fields": (lambda f: replace_line(f / "interactions.csv", 5, b"u1,i2"), "line 5: 2 fields"),
    "bad timestamp": (lambda f: replace_line(f / "interactions.csv", 7, b"u1,i2,soon,4"), "line 7: timestamp 'soon'"),
    "milliseconds": (
        lambda f: replace_line(f / "interactions.csv", 7, b"u1,i2,1700000000000,4"),
        "line 7: timestamp '1700000000000' is not in seconds",
    ),
    "negative time": (lambda f: replace_line(f / "interactions.csv", 7, b"u1,i2,-5,4"), "is not a moment"),
    "infinite time": (lambda f: replace_line(f / "interactions.csv", 7, b"u1,i2,inf,4"), "is not a moment"),
    "rating out of range": (lambda f: replace_line(f / "interactions.csv", 3, b"u1,i2,5,11"), "outside 0 to 5"),
    "value not a number": (
        lambda f: replace_line(f / "interactions.csv", 3, b"u1,i2,5,good"),
        "'good' is not a number",
    ),
    "empty id": (lambda f: replace_line(f / "interactions.csv", 4, b",i2,5,4"), "line 4: empty user_id"),
    "not utf-8": (lambda f: replace_line(f / "items.csv", 3, b"i9,Caf\xe9,tea,1990"), "items.csv, line 3: byte 0xe9"),
    "zero byte": (lambda f: replace_line(f / "items.csv", 3, b"i9,\0,tea,1990"), "zero byte"),
    "quote not closed": (lambda f: replace_line(f / "items.csv", 3, b'i9,"open,tea,1990'), "items.csv, line"),
    "item twice": (lambda f: replace_line(f / "items.csv", 3, b"i0,Again,tea,1990"), "item_id 'i0' is there twice"),
    "user twice": (lambda f: replace_line(f / "users.csv", 3, b"u0,us-east"), "user_id 'u0' is there twice"),
    "bad year": (lambda f: replace_line(f / "items.csv", 3, b"i9,Nine,tea,nineteen"), "year 'nineteen'"),
    "bad price": (
        lambda f: (f / "items.csv").write_text("item_id,price\ni0,free\n"),
        "items.csv, line 2: price 'free' is not usable",
    ),
    "bad region": (lambda f: replace_line(f / "users.csv", 3, b"u1,Middle Earth"), "region 'Middle Earth'"),
    "long line": (lambda f: replace_line(f / "items.csv", 3, b"x" * 1_000_001), "longer than"),
    "one user": (
        lambda f: write_csv(
            f / "interactions.csv", "user_id,item_id,timestamp", [("u1", f"i{n}", n) for n in range(60)]
        ),
        "1 users are too few",
    ),
    "few items": (
        lambda f: write_csv(
            f / "interactions.csv", "user_id,item_id,timestamp", [(f"u{n % 9}", f"i{n % 5}", n) for n in range(60)]
        ),
        "5 items are too few",
    ),
    "few interactions": (
        lambda f: write_csv(
            f / "interactions.csv", "user_id,item_id,timestamp", [(f"u{n % 2}", f"i{n}", n) for n in range(40)]
        ),
        "40 interactions are too few",
    ),
    "no histories": (
        lambda f: write_csv(
            f / "interactions.csv", "user_id,item_id,timestamp", [(f"u{n}", f"i{n % 20}", n) for n in range(60)]
        ),
        "users with 3 or more",
    ),
    "unknown event": (
        lambda f: write_csv(
            f / "interactions.csv", "user_id,item_id,timestamp,event_type", [("u1", "i1", 5, "sneeze")] * 60
        ),
        "unknown event_type 'sneeze'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_dataset_is_refused_with_its_place_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    spoil, said = BAD[case]
    folder = write_synthetic(tmp_path / "raw")
    spoil(folder)
    with pytest.raises(DatasetError) as caught:
        import_dataset(source=str(folder), out=tmp_path / "out")
    assert said in str(caught.value)
    assert caught.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]
    with pytest.raises(DatasetError):
        validate_dataset(source=str(folder))


def test_nothing_there_and_no_known_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        validate_dataset(source=str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DatasetError, match="no layout that is known"):
        validate_dataset(source=str(tmp_path))
    with pytest.raises(DatasetError, match="neither a folder nor a zip"):
        validate_dataset(source=str(tmp_path / "notes.txt"))


def test_a_canonical_folder_imports_to_itself(dataset_folder: Path, tmp_path: Path) -> None:
    card = import_dataset(source=str(dataset_folder), out=tmp_path / "again")
    assert card == read_card(dataset_folder)
    assert validate_dataset(source=str(dataset_folder)) == card
    for name in ("interactions.csv", "items.csv", "users.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (dataset_folder / name).read_bytes()


def test_an_import_replaces_a_dataset_but_nothing_else(raw_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    import_dataset(source=str(raw_folder), out=out, name="first")
    import_dataset(source=str(raw_folder), out=out, name="second")
    assert read_card(out).name == "second"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ConflictError, match="something else"):
        import_dataset(source=str(raw_folder), out=mine)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert (mine / CARD).exists() is False


def test_iso_timestamps_and_event_types(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(f"u{n % 5}", f"i{n % 17}", f"2026-01-0{1 + n % 9}T10:00:00+00:00", "like", "") for n in range(60)]
    rows += [("u0", "i3", "2026-02-01T00:00:00", "watch", "0.1"), ("u0", "i4", "2026-02-02", "impression", "")]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp,event_type,value", list(rows))
    card = import_dataset(source=str(folder), out=tmp_path / "out")
    assert card.event_types == {"impression": 1, "like": 60, "watch": 1}
    loaded = load_dataset(tmp_path / "out")
    assert loaded.rows.size == 61  # an impression is no interaction
    assert loaded.strengths[loaded.starts[1] - 1] == 2  # barely watched, and u0's last
    assert loaded.items.ids[loaded.rows[loaded.starts[1] - 1]] == "i3"


def test_without_timestamps_there_is_no_sequence_and_it_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(user, item) for user, item, _, _ in synthetic_rows(users=20, items=30)]
    write_csv(folder / "interactions.csv", "user_id,item_id", list(rows))
    card = import_dataset(source=str(folder), out=tmp_path / "out")
    assert card.has_times is False
    loaded, other = load_dataset(tmp_path / "out"), load_dataset(tmp_path / "out", seed=1)
    first, again = ([seen.items.ids[row] for row in seen.rows[: seen.starts[1]]] for seen in (loaded, other))
    assert sorted(first) == sorted(again) == sorted(item for user, item in rows if user == "u0")
    assert first != again
    assert default_config(loaded, seed=0, bfloat16=False).positions is False
    said = describe_dataset(dataset=tmp_path / "out")
    assert said.sequences is False
    assert any("No timestamps, so no sequence" in line for line in said.implies)
    assert any("No categories" in line for line in said.implies)
    assert any("All users are in us-central" in line for line in said.implies)


def test_the_region_column_of_interactions_counts_where_users_have_none(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(f"u{n % 6}", f"i{n % 20}", n, "eu" if n % 2 else "ca") for n in range(80)]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp,region", list(rows))
    assert import_dataset(source=str(folder), out=tmp_path / "out").regions == {"ca": 3, "eu": 3}


def test_zip_codes_give_regions() -> None:
    of = {"us-east": ("02139", "29999"), "us-central": ("30000", "69999", "T8H1N", ""), "us-west": ("70000", "98101")}
    assert all(region_of_zip_code(code) == region for region, codes in of.items() for code in codes)


def ml_1m_zip(path: Path, ratings: bytes | None = None) -> Path:
    lines = [
        f"{user[1:]}::{item[1:]}::{value}::{time}" for user, item, time, value in synthetic_rows(users=20, items=30)
    ]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", ratings if ratings is not None else "\n".join(lines) + "\n")
        archive.writestr(
            "ml-1m/movies.dat",
            "".join(f"{n}::Am\u00e9lie {n} (2001)::Comedy|Drama\n" for n in range(30)).encode("latin-1"),
        )
        archive.writestr("ml-1m/users.dat", "".join(f"{n}::F::1::10::{n}8067\n" for n in range(20)))
    return path


def test_the_ml_1m_layout_in_a_zip(tmp_path: Path) -> None:
    card = import_dataset(source=str(ml_1m_zip(tmp_path / "ml-1m.zip")), out=tmp_path / "out")
    assert (card.name, card.users, set(card.regions)) == ("ml-1m", 20, {"us-central", "us-east", "us-west"})
    loaded = load_dataset(tmp_path / "out")
    assert loaded.items.titles[0] == "Am\u00e9lie 0 (2001)"
    assert loaded.items.years[0] == 2001
    assert loaded.items.categories == ("Comedy", "Drama")
    with pytest.raises(DatasetError, match=r"ratings.dat, line 2: 3 fields"):
        validate_dataset(source=str(ml_1m_zip(tmp_path / "bad.zip", b"1::2::3::4\n1::2::3\n")))


def test_the_movielens_latest_layout(tmp_path: Path) -> None:
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    rows = [(user[1:], item[1:], value - 0.5, time) for user, item, time, value in synthetic_rows(users=20, items=30)]
    write_csv(folder / "ratings.csv", "userId,movieId,rating,timestamp", list(rows))
    genres = ("(no genres listed)", "Action|IMAX")
    write_csv(
        folder / "movies.csv", "movieId,title,genres", [(n, f"Film, The {n} (1999)", genres[n % 2]) for n in range(30)]
    )
    import_dataset(source=str(folder), out=tmp_path / "out")
    assert load_dataset(tmp_path / "out").items.categories == ("Action", "IMAX")


def recbole_wheel(path: Path, *, header: str = "user_id:token\titem_id:token\trating:float\ttimestamp:float") -> Path:
    inter = [f"{user}\t{item}\t{value}\t{time}" for user, item, time, value in synthetic_rows(users=20, items=30)]
    base = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{base}.inter", "\n".join([header, *inter]) if header else "")
        item_head = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
        movies = [f"i{n}\tFilm {n}\t{1990 if n else 'V'}\tDrama Film-Noir" for n in range(30)]
        archive.writestr(f"{base}.item", "\n".join([item_head, *movies]))
        user_head = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
        archive.writestr(
            f"{base}.user", "\n".join([user_head, *(f"u{n}\t9\tF\tnone\t{n % 10}1234" for n in range(20))])
        )
    return path


def test_the_wheel_layout(tmp_path: Path) -> None:
    card = import_dataset(source=str(recbole_wheel(tmp_path / "recbole-1.2.1.whl")), out=tmp_path / "out")
    assert card.name == "ml-100k"
    loaded = load_dataset(tmp_path / "out")
    assert loaded.items.categories == ("Drama", "Film-Noir")
    assert loaded.items.titles[:2] == ("Film 0", "Film 1 (1990)")
    for header, said in (
        ("user_id:token\tx:token\trating:float\ttimestamp:float", "item_id is missing"),
        ("", "is empty"),
    ):
        with pytest.raises(DatasetError, match=said):
            validate_dataset(source=str(recbole_wheel(tmp_path / "bad.whl", header=header)))


def test_a_dataset_card_that_is_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no dataset\.json"):
        read_card(tmp_path)
    (tmp_path / CARD).write_text("{")
    with pytest.raises(DatasetError, match="does not read"):
        read_card(tmp_path)


def test_describe_says_what_it_saw(dataset_folder: Path) -> None:
    said = describe_dataset(dataset=dataset_folder)
    assert (said.users, said.items, said.sequences, said.metadata) == (60, 40, True, True)
    assert set(said.regions) == {"us-central", "us-east", "us-west"}
    assert said.evaluated_users == 60


def test_describe_says_what_training_takes_and_what_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(user, item, value, time, "") for user, item, time, value in synthetic_rows(users=20, items=30)]
    write_csv(folder / "interactions.csv", "user_id,item_id,rating,timestamp,basket", list(rows))
    import_dataset(source=str(folder), out=tmp_path / "out")
    said = describe_dataset(dataset=tmp_path / "out")
    config = default_config(load_dataset(tmp_path / "out"), seed=0, bfloat16=False)
    assert (said.training.history_length, said.training.epochs) == (config.history_length, config.epochs)
    assert f"{config.dim} wide" in said.training.sentence()
    assert said.unread_columns == ("rating", "basket")
    assert "The column rating of the interactions is not read: call it value if that is what it says." in said.implies
    assert "The column basket of the interactions is not read." in said.implies
    assert any(line.startswith("Small: of 20 users") for line in said.implies)


@pytest.mark.parametrize(
    ("header", "fix"),
    [
        ("user_id;item_id;timestamp", "between semicolons"), ("user_id\titem_id\ttimestamp", "between tabs"),
        ("User_ID,Item_ID,Timestamp", "in small letters"), ("userId,movieId,ts", "must name the columns"),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit_is_answered_by_what_is_wrong_with_it(header: str, fix: str, tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text(f"{header}\n")
    with pytest.raises(DatasetError) as caught:
        validate_dataset(source=str(tmp_path))
    assert fix in caught.value.fix


def test_dislikes_are_not_called_implicit(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = [(user, item, time, "dislike") for user, item, time, _ in synthetic_rows(users=20, items=30)]
    write_csv(folder / "interactions.csv", "user_id,item_id,timestamp,event_type", list(rows))
    import_dataset(source=str(folder), out=tmp_path / "out")
    implies = describe_dataset(dataset=tmp_path / "out").implies
    assert any("what people refuse" in line for line in implies)
    assert not any("implicit" in line for line in implies)


def test_the_xmarket_layout_makes_every_market_a_region(tmp_path: Path) -> None:
    rows = [f"u{user} i{item} {1 + item % 5}.0 2019-0{1 + item % 9}-11" for user in range(6) for item in range(12)]
    folder = tmp_path / "markets"
    folder.mkdir()
    for market in ("uk", "jp"):
        (folder / f"{market}_5core.txt").write_text("\n".join(["userId itemId rate date", *rows]) + "\n")
    card = import_dataset(source=str(folder), out=tmp_path / "out")
    assert (card.name, card.users, card.items, card.interactions) == ("xmarket", 12, 12, 144)
    assert card.regions == {"jp": 6, "uk": 6}
    assert card.event_types == {"rating": 144}
    (folder / "jp_5core.txt").write_text("user item rate date\n")
    with pytest.raises(DatasetError, match=r"jp_5core.txt, line 1"):
        import_dataset(source=str(folder), out=tmp_path / "out")
    (folder / "jp_5core.txt").write_text("userId itemId rate date\nu1 i1 5.0\n")
    with pytest.raises(DatasetError, match=r"line 2: 3 fields"):
        import_dataset(source=str(folder), out=tmp_path / "out")


def sequence_lines(region: str, users: int) -> bytes:
    histories = [tuple(f"i{(user + step) % 12}" for step in range(6)) for user in range(users)]
    return b"".join(
        encode_extract(
            SequenceExtract(
                region=region, key=f"{user:032x}", period=1, items=items, strengths=(5, 1, 4, 2, 6, 7),
                hours=tuple(range(480_000, 480_006)),
            ), ExportPolicy.PSEUDONYMOUS,
        ) + b"\n"
        for user, items in enumerate(histories)
    )  # fmt: skip


def test_extracts_of_several_regions_are_one_dataset(tmp_path: Path):
    folder = tmp_path / "extracts"
    folder.mkdir()
    (folder / sequences_file("us-east")).write_bytes(sequence_lines("us-east", 10))
    other = sequence_lines("us-west", 10).replace(b'"key":"0', b'"key":"f')
    (folder / sequences_file("us-west")).write_bytes(other)
    (folder / "items.csv").write_text("item_id,title,category,year\ni0,Zero,tea,1990\n")
    card = import_dataset(source=str(folder), out=tmp_path / "out", progress=SilentProgress())
    assert (card.users, card.items, card.interactions) == (20, 12, 120)
    assert card.regions == {"us-east": 10, "us-west": 10}
    dataset = load_dataset(tmp_path / "out")
    assert sorted(set(dataset.strengths.tolist())) == [1, 2, 4, 5, 7]


def test_a_line_that_is_no_sequence_is_refused_with_its_place(tmp_path: Path):
    folder = tmp_path / "extracts"
    folder.mkdir()
    (folder / sequences_file("us-east")).write_bytes(sequence_lines("us-east", 3) + b'{"subject":"1"}\n')
    with pytest.raises(DatasetError, match=r"pseudonymous-us-east\.ndjson, line 4: no sequence of a region"):
        import_dataset(source=str(folder), out=tmp_path / "out", progress=SilentProgress())
