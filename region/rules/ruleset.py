"""A rule file compiled: which rules hold for a call, with the surface's settings put over the file's."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from infra.contracts.messages import RecommendationType, Source, Surface
from infra.contracts.release import Rules
from region.rules.conditions import Condition, ConditionError, Scope, Values
from region.rules.schema import (
    Boost,
    Cap,
    Diversity,
    EditorialList,
    Exploration,
    Floor,
    HardRule,
    Lives,
    Promotion,
    Quota,
    RuleFile,
    SlateRules,
    Stability,
)

DEFAULTS_EDITION = "release-defaults"
NO_EXPLORATION = Exploration()
AnyRule = HardRule | Quota | Floor | Boost | Promotion | Cap | EditorialList
R = TypeVar("R", HardRule, Quota, Floor, Boost, Promotion, Cap, EditorialList)


@dataclass(frozen=True, slots=True)
class Compiled(Generic[R]):
    """One rule with its expressions ready to run."""

    rule: R
    when: Condition | None
    match: Condition | None
    by: Condition | None

    def applies(self, surface: Surface, request: Values, today: dt.date) -> bool:
        """Whether it holds for a call. A `when` that fails: a hard rule holds, any other does not."""
        rule: AnyRule = self.rule
        if rule.surfaces and surface not in rule.surfaces:
            return False
        if not self.is_in_time(today):
            return False
        if self.when is None:
            return True
        try:
            value = self.when.value(None, request, now_s=0.0)
        except ConditionError:
            return isinstance(rule, HardRule)
        return value is True

    def is_in_time(self, today: dt.date) -> bool:
        """Whether `today` is one of its days."""
        rule: AnyRule = self.rule
        return (rule.from_date is None or today >= rule.from_date) and (
            rule.until_date is None or today <= rule.until_date
        )


def compile_rule(rule: R) -> Compiled[R]:
    """Compile the expressions of a rule that `read_rules` let through."""
    sources = (rule.when, getattr(rule, "match", None), getattr(rule, "by", None))
    scopes = (Scope.REQUEST, Scope.ITEM, Scope.ITEM)
    when, match, by = (
        Condition.compile(source, scope=scope) if source else None
        for source, scope in zip(sources, scopes, strict=True)
    )
    return Compiled(rule, when, match, by)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a surface's slates are arranged, nothing left open."""

    diversity: Diversity
    stability: Stability
    category_share_max: float
    mix: dict[Source, float] | None
    lives: dict[RecommendationType, Lives]
    exploration: Exploration = NO_EXPLORATION


@dataclass(frozen=True, slots=True)
class Active:
    """The rules that hold for one call."""

    settings: Settings
    hard: tuple[Compiled[HardRule], ...] = ()
    quotas: tuple[Compiled[Quota], ...] = ()
    floors: tuple[Compiled[Floor], ...] = ()
    boosts: tuple[Compiled[Boost], ...] = ()
    promotions: tuple[Compiled[Promotion], ...] = ()
    caps: tuple[Compiled[Cap], ...] = ()
    editorial: tuple[Compiled[EditorialList], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSet:
    """Compiled rules; `edition` names their text."""

    edition: str
    file: RuleFile
    hard: tuple[Compiled[HardRule], ...] = ()
    quotas: tuple[Compiled[Quota], ...] = ()
    floors: tuple[Compiled[Floor], ...] = ()
    boosts: tuple[Compiled[Boost], ...] = ()
    promotions: tuple[Compiled[Promotion], ...] = ()
    caps: tuple[Compiled[Cap], ...] = ()
    editorial: tuple[Compiled[EditorialList], ...] = ()
    settings: dict[Surface, Settings] = field(default_factory=dict)

    def active(self, surface: Surface, request: Values, *, now_s: float) -> Active:
        """What holds for a call from `surface` at this moment."""
        today = dt.datetime.fromtimestamp(now_s, tz=dt.UTC).date()

        def holding(rules: tuple[Compiled[R], ...]) -> tuple[Compiled[R], ...]:
            return tuple(rule for rule in rules if rule.applies(surface, request, today)) if rules else ()

        return Active(
            self.settings[surface], hard=holding(self.hard), quotas=holding(self.quotas), floors=holding(self.floors),
            boosts=holding(self.boosts), promotions=holding(self.promotions), caps=holding(self.caps),
            editorial=holding(self.editorial),
        )  # fmt: skip

    @property
    def expressions(self) -> tuple[tuple[str, Condition], ...]:
        """Rule name and expression over items, of every rule."""
        every: tuple[Compiled[Any], ...] = (
            *self.hard, *self.quotas, *self.floors, *self.boosts, *self.promotions, *self.caps
        )  # fmt: skip
        return tuple((one.rule.id, held) for one in every for held in (one.match, one.by) if held is not None)


def compile_rules(file: RuleFile, *, edition: str, defaults: Rules | None = None) -> RuleSet:
    """The rules of `file`, over the defaults of a release for what the file leaves open."""
    base = defaults or Rules()

    def compiled(rules: Iterable[R]) -> tuple[Compiled[R], ...]:
        return tuple(compile_rule(rule) for rule in rules)

    hard: tuple[HardRule, ...] = file.hard
    if base.withdrawn:
        hard = (*hard, HardRule(id="release-withdrawn", because="withdrawn", items=base.withdrawn))
    return RuleSet(
        edition=edition, file=file, hard=compiled(hard), quotas=compiled(file.quotas), floors=compiled(file.floors),
        boosts=compiled(file.boosts), promotions=compiled(file.promotions), caps=compiled(file.caps),
        editorial=compiled(file.editorial),
        settings={surface: _settings(file, surface, base) for surface in Surface},
    )  # fmt: skip


def defaults_of(rules: Rules) -> RuleSet:
    """The rules of a region that has none of its own: what the release says."""
    return compile_rules(RuleFile(format=1, region="any"), edition=DEFAULTS_EDITION, defaults=rules)


def _settings(file: RuleFile, surface: Surface, base: Rules) -> Settings:
    own, common = file.surfaces.get(surface, SlateRules()), file.slate
    return Settings(
        diversity=own.diversity or common.diversity or Diversity(strength=base.diversity),
        stability=own.stability or common.stability or Stability(),
        category_share_max=own.category_share_max or common.category_share_max or base.category_share_max,
        mix=_mix(common if own.mix is None else own),
        lives={**(common.lives or {}), **(own.lives or {})},
        exploration=own.exploration or common.exploration or NO_EXPLORATION,
    )


def _mix(slate: SlateRules) -> dict[Source, float] | None:
    return None if slate.mix is None else {Source(name): weight for name, weight in slate.mix.items()}
