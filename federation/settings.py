"""Settings of the federation's processes: one file each, checked before anything starts."""

from typing import Annotated

import msgspec

from federation.secure_aggregation.seats import DRAWS_MAX
from infra.plumbing.http.tls import ClientTls, ListenTls
from infra.plumbing.telemetry import TelemetrySettings

Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class CohortSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom a region lets take part, and what it asks of a round before it takes part itself.

    The region decides these, not central: a plan that asks for less noise than `noise_multiplier_min` is refused.
    """

    count_min: Count = 10
    """A round with fewer accepted updates is void: nothing leaves the region."""
    goal_count: Count = 35
    """The round closes as soon as so many updates were accepted (never early when phones are sampled)."""
    over_selection: Annotated[float, msgspec.Meta(ge=1.0, le=4.0)] = 1.3
    """Phones selected per update wanted, because some drop out (Bonawitz et al. 2019)."""
    selection_s: Positive = 3.0
    """How long phones are selected after a round has opened."""
    sharing_s: Positive = 5.0
    """How long selected phones may take to share their masks' secrets with their neighbours, and before that, where a
    sum has more than 24 of them, to draw their seats: for each draw."""
    reporting_s: Positive = 20.0
    """How long they may take after that to train and report. Reached only where fewer than the goal count do: generous,
    since who is late is missing when the masks are taken off too."""
    unmasking_s: Positive = 5.0
    """How long survivors may take to sign the list of survivors, and again to give their shares."""
    cohorts: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Sums that a round's phones are divided into at random, so that central can trim; each carries all the noise."""
    sampling_probability: Share = 1.0
    """Below 1: every phone that checks in is taken with this probability (Poisson sampling, a cryptographic coin)."""
    expected_count: Count = 25
    """With sampling: the fixed number that the sum is divided by, instead of the count, which then stays here."""
    noise_multiplier_min: Annotated[float, msgspec.Meta(ge=0.0)] = 0.5
    """Least Gaussian noise, in clipping norms, that this region adds to a sum before it leaves."""
    epsilon_max: Positive | None = 20.0
    """The region's own budget at `delta`, over all rounds that it ever takes part in; fixed by its first round. None:
    it does not count for itself."""
    delta: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 1e-6
    check_ins_max: Count = 20_000
    """Phones that one round keeps in mind; further ones are told to come back later."""
    parameters_max: Count = 1 << 16
    """Largest update that is taken, in numbers."""

    @property
    def round_s_max(self) -> float:
        """How long a round lasts at most."""
        return self.selection_s + (1 + DRAWS_MAX) * self.sharing_s + self.reporting_s + 2.0 * self.unmasking_s


class SiloSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a region takes part over its resident features, without the phones. Of `cohort` only what needs no phone."""

    region_url: str
    """The region's own API, for its door to resident histories."""
    releases_directory: str
    """The releases that the region has verified, a folder each."""
    cohort: CohortSettings = CohortSettings()
    tls: ClientTls | None = None
    """For an API that is served over TLS."""
    users_max: Count = 1_000_000
    """Users in one round; a region with more makes the round void and says so."""
    examples_max: Annotated[int, msgspec.Meta(ge=4, le=1000)] = 50
    """Newest events of a user that are learned from."""
    round_s_max: Positive = 240.0
    """A round that is not through by then is void: who was reached by then must not decide what is learned."""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region's device gateway. It writes `round.key` into its state directory: the SuperNode's key to it."""

    node: str
    region: str
    host: str = "127.0.0.1"
    port: Port
    tls: ListenTls | None = None
    """Phones have no certificates: with a `client_ca_file`, give `/v1/device/` a door without names. None: plain."""
    state_directory: str
    keys_file: str
    """The region's `RegionKeys`: opens the subject of a phone's token, so that a user counts once in a round."""
    trust_file: str
    """The `TrustDirectory`."""
    cohort: CohortSettings = CohortSettings()
    silo: SiloSettings | None = None
    """None: this region takes part by its phones only."""
    telemetry: TelemetrySettings = TelemetrySettings()


class SuperlinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A SuperLink that stands for as long as its world does."""

    host: str = "127.0.0.1"
    port: Port
    state_directory: str
    """Home of Flower's programs here."""
    credentials_directory: str
    """Its certificate and whom SuperNodes trust; made at the first start where they are not there."""


class SupernodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region's SuperNode that stands for as long as its world does."""

    region: str
    host: str = "127.0.0.1"
    port: Port
    """Where its ClientApps find it."""
    superlink: str
    """host:port at which it finds the SuperLink: the region's link to central."""
    registry: str
    """host:port at which its key is told to the SuperLink, which is central's business: not over the link."""
    gateway_url: str
    """Base address of the region's gateway; with `/silo` behind it for a region without phones."""
    gateway_tls: ClientTls | None = None
    round_key_file: str
    """The gateway's `round.key`."""
    state_directory: str
    """Home of Flower's programs here, and the key by which the SuperLink knows this start of it."""
    credentials_directory: str
    """The SuperLink's; nothing but the authority's certificate is read."""


class PhonesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A simulator of many phones in one process; each talks to the gateway of its own region."""

    gateways: dict[str, str]
    """Base address of each region's gateway, by region."""
    gateways_tls: ClientTls | None = None
    """For gateways behind https: whom the phones trust."""
    keys_files: dict[str, str]
    """Each region's `RegionKeys`: the simulator plays the token issuer too."""
    dataset_directory: str
    """A plain dataset folder: interactions.csv, users.csv (with `region`), items.csv (for sensitive categories)."""
    release_directory: str
    """The bundle that the phones hold; its name is the release id."""
    state_directory: str
    """One local store per phone below it."""
    phones_per_region: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 30
    sensitive_categories: tuple[str, ...] = ()
    """Events on items of these categories stay on the phone; empty: the category nearest a fifth of all events."""
    canary: str = ""
    """Planted as a sensitive event into every phone's store, so that a scan can look for it elsewhere."""
    cohort_min: Count = 10
    """Fewest phones in whose sum a phone takes part, whatever its gateway says."""
    dropout_share: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.08
    """Share of phones that are selected and then never report."""
    steps_a_day: Count = 20_000
    """Tower calls and gradients that one phone's training may take in a day; beyond, it sits rounds out."""
    patience_s: Positive = 300.0
    """How long to take part at most; SIGTERM ends it before, with a report."""
    seed: int = 7
    """Which users become phones, and which drop out."""
    adapter_file: str = ""
    """The trained adapter, if there is one when the rounds are over: gains are measured with it then."""
    report_file: str = ""
    """Where the report is written; empty: standard output only."""
    targets_file: str = ""
    """Where Prometheus is told of this process's `/metrics` (`file_sd_configs`); empty: it has none."""
    telemetry: TelemetrySettings = TelemetrySettings()
