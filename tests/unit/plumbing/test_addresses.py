import pytest

from infra.plumbing.addresses import parse_address, scheme_of
from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.grid.connect import connect_grid

OPTIONS = frozenset({"data_center", "copies"})


def test_an_address_names_servers_a_space_and_options() -> None:
    address = parse_address("cassandra://a:9042,127.0.0.1:1/keys?data_center=here", scheme="cassandra", options=OPTIONS)
    assert address.hosts == (("a", 9042), ("127.0.0.1", 1))
    assert address.host_ports == ["a:9042", "127.0.0.1:1"]
    assert (address.name, address.option("data_center"), address.number("copies", 3)) == ("keys", "here", 3)


@pytest.mark.parametrize(
    "wrong",
    ["", "sqlite", "kafka://a:1/t", "cassandra://a/k", "cassandra://a:x/k", "cassandra://a:1", "cassandra://a:70000/k"],
)
def test_another_form_is_refused_with_the_right_one(wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_address(wrong, scheme="cassandra")
    assert "cassandra://HOST:PORT" in caught.value.fix


def test_an_option_that_nobody_knows_or_that_is_missing_is_said() -> None:
    with pytest.raises(SettingsError, match="datacenter"):
        parse_address("cassandra://a:1/k?datacenter=x", scheme="cassandra", options=OPTIONS)
    address = parse_address("cassandra://a:1/k?copies=none", scheme="cassandra", options=OPTIONS)
    with pytest.raises(SettingsError, match="data_center"):
        address.option("data_center")
    with pytest.raises(SettingsError, match="copies"):
        address.number("copies", 1)


async def test_a_grid_of_another_scheme_is_refused() -> None:
    assert scheme_of("/run/grid") == ""
    with pytest.raises(SettingsError, match="no hazelcast address"):
        connect_grid("redis://a:1/x", clock=ManualClock())
