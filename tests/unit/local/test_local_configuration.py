"""`world.toml`: what it takes, and what each mistake is told."""

from pathlib import Path

import msgspec
import pytest

from infra.local.configuration import (
    DirectoriesConfiguration,
    PortsConfiguration,
    RegionConfiguration,
    WorldConfiguration,
    WorldConfigurationError,
    default_configuration,
    load_configuration,
    render_configuration,
    save_configuration,
    validate_configuration,
)
from infra.local.layout import SOCKET_PATH_BYTES_MAX, StateDirectoryError, layout_of
from infra.local.ports import PortInUseError, assign_ports, is_port_free
from infra.local.tiers import source_root, tier_python
from infra.plumbing.errors import SettingsError
from region.settings import PrecomputeSettings, RegionChoices


def changed(**fields: object) -> WorldConfiguration:
    return msgspec.structs.replace(default_configuration(), **fields)


def test_the_default_is_three_regions_with_two_edges() -> None:
    world = default_configuration()
    validate_configuration(world)
    assert world.region_names == ("us-east", "us-central", "us-west")
    assert [region.edges for region in world.regions] == [2, 2, 2]
    assert world.nearest("us-west") == ("us-central", "us-east")
    assert world.nearest("us-central") == ("us-east", "us-west")
    with pytest.raises(WorldConfigurationError, match="no region 'north'"):
        world.region("north")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (RegionConfiguration(name="a", edges=1, networks=("10.0.0.0/8", "::1/128")),)
    world = changed(
        regions=regions, balancer="haproxy", follow=False, federation=True, ports=PortsConfiguration(first=4000)
    )
    save_configuration(world, tmp_path / "world.toml")
    read = load_configuration(tmp_path / "world.toml")
    assert read.directories == DirectoriesConfiguration(
        state=str(tmp_path / ".atoll/world"),
        repository=str(tmp_path / ".atoll/repository"),
        environments=str(source_root() / ".atoll/envs"),
    )
    assert msgspec.structs.replace(read, directories=world.directories) == world
    assert "# embedded | haproxy" in render_configuration(world)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"regions": ()}, "1 to 16 regions"),
        ({"regions": (RegionConfiguration(name="a"), RegionConfiguration(name="a"))}, "'a' is listed twice"),
        ({"regions": (RegionConfiguration(name="central"),)}, "cannot be a region's name"),
        ({"regions": (RegionConfiguration(name="us--east"),)}, "cannot be a region's name"),
        ({"regions": (RegionConfiguration(name="a" * 32),)}, "cannot be a region's name"),
        ({"regions": (RegionConfiguration(name="a", edges=0),)}, "0 edges"),
        (
            {"regions": (RegionConfiguration(name="a", export_policy="all"),)},
            "export_policy of 'a' is 'all'.*none, aggregates, pseudonymous",
        ),
        ({"regions": (RegionConfiguration(name="a", zip_digits="1x"),)}, "zip_digits"),
        (
            {"regions": (RegionConfiguration(name="a", zip_digits="1"), RegionConfiguration(name="b", zip_digits="1"))},
            "zip digit 1 belongs to both 'a' and 'b'",
        ),
        ({"balancer": "nginx"}, "embedded, haproxy"),
        ({"log_level": "LOUD"}, "log_level"),
        ({"sample_ratio": 2.0}, "sample_ratio"),
        ({"capture_bytes_max": 1}, "capture_bytes_max"),
        ({"poll_interval_s": 0.0}, "poll_interval_s"),
        ({"start_timeout_s": 0.0}, "start_timeout_s"),
        ({"ports": PortsConfiguration(first=80)}, "ports.first is 80"),
        ({"ports": PortsConfiguration(balancer=5000, repository=5000)}, "the same"),
        ({"tls": True, "directories": DirectoriesConfiguration(servers="servers")}, "world with TLS cannot run on"),
    ],
)
def test_each_mistake_is_told(fields: dict[str, object], words: str) -> None:
    with pytest.raises(WorldConfigurationError, match=words) as caught:
        validate_configuration(changed(**fields))
    assert caught.value.fix


def test_what_a_regions_processes_are_told_is_read_checked_and_written_back(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules: []\n")
    (tmp_path / "token").write_text("s.1")
    file = tmp_path / "world.toml"
    said = """
        [[regions]]
        name = "a"
        [regions.settings]
        rules_file = "rules.yaml"
        session_life_s = 600.0
        precompute = {enabled = true, hours_utc = [2, 3]}
        key_service = {url = "http://127.0.0.1:8200", key = "a", token_file = "token"}
        [[regions]]
        name = "b"
    """
    file.write_text(said)
    read = load_configuration(file)
    told, other = (region.settings for region in read.regions)
    assert told.precompute == PrecomputeSettings(enabled=True, hours_utc=(2, 3))
    assert (told.rules_file, told.session_life_s) == (str(tmp_path / "rules.yaml"), 600.0)
    assert told.key_service is not None
    assert told.key_service.token_file == str(tmp_path / "token")
    assert other == RegionChoices()
    save_configuration(read, tmp_path / "again.toml")
    assert load_configuration(tmp_path / "again.toml").regions == read.regions
    for wrong, words in (
        ("session_life_s = 0.0", r"settings\.session_life_s"),
        ("session_life = 600.0", "session_life"),
        ('rules_file = "elsewhere.yaml"', "no file .*elsewhere.yaml"),
        ("port = 80", "port"),
    ):
        file.write_text(f'[[regions]]\nname = "a"\n[regions.settings]\n{wrong}\n')
        with pytest.raises(SettingsError, match=words):
            load_configuration(file)


def test_a_file_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "world.toml").write_text("regoins = []\nregions = []\n")
    with pytest.raises(SettingsError, match="regoins"):
        load_configuration(tmp_path / "world.toml")


def test_ports_are_configured_or_those_of_last_time_or_free_ones() -> None:
    names = ["balancer", "repository", "a", "b", "c"]
    ports = assign_ports(
        names, configured=PortsConfiguration(balancer=8000), previous={"a": 30000, "b": 30001}, seed="x",
        is_free=lambda port: port != 30001, ephemeral_from=32768,
    )  # fmt: skip
    assert ports["balancer"] == 8000
    assert ports["a"] == 30000
    assert ports["b"] != 30001
    assert len(set(ports.values())) == len(names)
    # Below the range from which outgoing connections take theirs: a healed process finds its port free.
    assert all(ports[name] < 32768 for name in ("repository", "a", "b", "c"))


def test_ports_count_up_from_the_first() -> None:
    configured = PortsConfiguration(first=7000, repository=7001)
    ports = assign_ports(
        ["balancer", "repository", "a"], configured=configured, previous={}, seed="", is_free=lambda _: True
    )
    assert ports == {"balancer": 7000, "repository": 7001, "a": 7002}


def test_a_configured_port_in_use_is_named() -> None:
    with pytest.raises(PortInUseError, match="port 7001, configured for a, is in use") as caught:
        assign_ports(
            ["balancer", "a"], configured=PortsConfiguration(first=7000), previous={}, seed="",
            is_free=lambda port: port != 7001,
        )  # fmt: skip
    assert "ss -ltnp" in caught.value.fix


def test_too_few_ports_are_told() -> None:
    with pytest.raises(WorldConfigurationError, match="not enough"):
        assign_ports(
            ["a"], configured=PortsConfiguration(), previous={}, seed="", is_free=lambda _: False, ephemeral_from=21500
        )
    with pytest.raises(WorldConfigurationError, match="not enough"):
        assign_ports(
            ["a", "b"], configured=PortsConfiguration(first=65535), previous={}, seed="", is_free=lambda _: True
        )


def test_a_bound_port_is_not_free_and_a_foreign_address_is_told() -> None:
    import socket  # noqa: PLC0415 - here only

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not is_port_free("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(WorldConfigurationError, match=r"192\.0\.2\.1"):
        is_port_free("192.0.2.1", 20000)


def test_sockets_of_a_long_path_lie_in_a_short_folder(tmp_path: Path) -> None:
    near = layout_of(Path("/srv/atoll"))
    assert near.run == Path("/srv/atoll/run")
    far = layout_of(tmp_path / ("deep" * 30))
    assert len(str(far.grid("us-central-with-a-long-name-1234"))) <= SOCKET_PATH_BYTES_MAX
    assert far.mark in str(far.run)
    assert far.mark != near.mark


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirectoryError, match="cannot use"):
        layout_of(tmp_path / "file" / "state").create()
    layout = layout_of(tmp_path / "state")
    layout.create()
    layout.run.rmdir()
    layout.run.symlink_to(tmp_path)
    with pytest.raises(StateDirectoryError, match="is a link"):
        layout.create()


def test_a_tier_runs_in_its_own_environment_when_there_is_one(tmp_path: Path) -> None:
    own = tmp_path / "edge" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert tier_python("edge", tmp_path) == str(own)
    assert tier_python("region", tmp_path) != str(own)
    assert (source_root() / "infra" / "local").is_dir()
