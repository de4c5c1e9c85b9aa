"""What a run is given: regions, how to train, what privacy may cost. One file, read by supervisor and ServerApp."""

from typing import Annotated

import msgspec

from federation.messages import Part
from infra.plumbing.http.tls import ClientTls

PROGRESS_FILE = "progress.jsonl"
"""In the outcome directory: a line per finished round while a run goes on."""
TARGETS = "targets"
"""Folder below the state directory that tells Prometheus of processes that live for one run (`file_sd_configs`)."""

SERVER_APP_FILE = "server-app.pid"
"""In the outcome directory: who runs the plan, so that the supervisor notices when it is killed."""

Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class RegionLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one region takes part."""

    gateway_url: str
    """Base address of the region's device gateway, as its SuperNode reaches it."""
    round_key_file: str
    """The gateway's `round.key`."""
    gateway_tls: ClientTls | None = None
    """For a gateway behind https: whom the SuperNode trusts, and what it shows."""
    superlink_address: str = ""
    """host:port at which this region's SuperNode finds the SuperLink (a recording proxy, say); empty: directly."""


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the shared part is trained."""

    part: Part = Part.CORE
    categories: tuple[str, ...] = ()
    """With ``items``: the slice is the items in any of these; empty: the whole catalogue."""
    rank: Count = 8
    """Directions of the item space in which the adapter may move; noise is spent on rank squared numbers."""
    clipping_norm: Positive = 0.2
    """Cuts more than half of the updates on MovieLens 100K (quartiles of their norms: .17, .21, .29), where the mean
    keeps its direction (cosine .98) and 78 % of the length it has at .3, under noise of two thirds."""
    local_steps: Count = 8
    local_learning_rate: Positive = 0.05
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)] = 0.0
    taste_region: Positive = 0.15
    """With ``items``: how far an item's taste moves in a round at most, in whitened features."""
    popularity_region: Positive = 50.0
    """With ``items``: how far the log of an item's popularity moves in a round at most."""
    taste_norm: Positive | None = None
    """With ``items``: how long the tastes of an event are in a phone's update, where its popularity and its mass are 1
    each; None: as long as the root of their number."""
    stage_rounds: Count = 20
    """With ``items``: after so many rounds each time what phones' towers read is looked at anew."""


HARDLY_ANY_NOISE = 0.05
"""In clipping norms; below it the recipe is the one without noise."""

EVENTS_NORM = 5.0
"""Of an items update without noise, where an event of one item is the root of 3 long: eight events of different items.
So it is of no data set: at MovieLens 100K the phones' median is 5.4, at MovieLens 1M 6.7, and those above are cut."""


def items_training(categories: tuple[str, ...], *, noise_multiplier: float) -> TrainingPlan:
    """How items are trained: over all directions and slowly where hardly any noise is added, else over few and at once.

    An items update is a sum over a phone's events, so its norm is of another size than a core's. Chosen on the newest
    events of MovieLens 1M's phones, one seed (`./atoll bench federated` measures both). Without noise the norm and the
    two regions bound what bad phones can do in a round (`./atoll bench poisoning`).
    """
    if noise_multiplier < HARDLY_ANY_NOISE:
        return TrainingPlan(
            part=Part.ITEMS, categories=categories, rank=128, clipping_norm=EVENTS_NORM, taste_norm=1.0,
            server_learning_rate=0.2, server_momentum=0.7, popularity_region=0.5, stage_rounds=15,
        )  # fmt: skip
    return TrainingPlan(
        part=Part.ITEMS, categories=categories, rank=32, clipping_norm=10.0, server_learning_rate=0.8,
        taste_region=3.0,
    )  # fmt: skip


def norm_in_words(training: TrainingPlan) -> str:
    """What bounds a phone's part of a round, and where the bound comes from, for people."""
    norm = training.clipping_norm
    if training.part is Part.CORE:
        return f"{norm:g}, of the adapter's core, near the middle of what honest phones send"
    if training.taste_norm is None:
        return f"{norm:g}, below what most phones send: the noise is so many times as large"
    events = norm**2 / (2.0 + training.taste_norm**2)
    return (
        f"{norm:g}, about {events:.0f} events of different items whatever the data set; in a round an item's popularity"
        f" moves by {training.popularity_region:g} (of its log) and its taste by {training.taste_region:g} at most"
    )


class PrivacyPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a population's training may cost; population and budget are fixed by the ledger's first line."""

    ledger_file: str
    population: str
    noise_multiplier: Positive = 1.0
    """Of the noise that each region adds to its own sum, in clipping norms."""
    sampling_probability: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    """As the regions' gateways are set; below 1 only where they really sample."""
    epsilon_max: Positive = 20.0
    delta: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 1e-6


class RunPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the ServerApp."""

    rounds: Count
    regions: dict[str, RegionLink]
    release_directory: str
    """The bundle that is trained on; its name is the release id."""
    outcome_directory: str
    training: TrainingPlan = TrainingPlan()
    privacy: PrivacyPlan
    nodes_wait_s: Positive = 60.0
    """How long to wait for every region's SuperNode; the round goes on without those that did not come."""
    round_timeout_s: Positive = 60.0


class StandingLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A SuperLink that stands already, with a SuperNode of each region at it."""

    address: str
    """host:port."""
    authority: str
    """Certificate (PEM) of whom to trust there."""


class DeploymentPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run with its SuperLink and SuperNodes."""

    run: RunPlan
    state_directory: str
    superlink_port: int
    """Of the SuperLink that is started for this run."""
    standing: StandingLink | None = None
    """Runs over these; then no SuperLink and no SuperNode is started."""
    tls: bool = True
    """Whether SuperLink and SuperNodes speak TLS and SuperNodes prove who they are; off only where traffic is read."""
    restarts_max: Annotated[int, msgspec.Meta(ge=0, le=100)] = 20
    """SuperNodes and ServerApps that are started again after they were killed, in all."""
    simulated: bool = False
    """Flower's simulation engine stands for the SuperNodes; it needs Ray where the supervisor runs."""
    import_root: str
    """Folder that holds the `federation` package, for the processes that Flower starts."""
    timeout_s: Positive = 240.0
