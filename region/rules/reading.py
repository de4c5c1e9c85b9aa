"""From the text of a rule file to `RuleFile`: safe YAML, checked against the schema, every message with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from infra.plumbing.errors import InvalidInputError
from region.rules.conditions import Condition, ConditionError, Scope
from region.rules.schema import Quota, RuleFile, SlateRules

DOCUMENT_BYTES_MAX = 256 << 10
OLD_FORM = frozenset({"diversity", "category_share_max", "withdrawn"})
_STEP = re.compile(r"\.([A-Za-z_]+)|\[(\d+|\.\.\.)\]")
_EXPRESSIONS = ("when", "match", "by")
_KINDS = ("hard", "quotas", "floors", "boosts", "promotions", "caps", "editorial")
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a file; `line` counts from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


class RuleFileError(InvalidInputError):
    """The text is not a rule file; `faults` tells where and why."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        super().__init__(
            "the rules cannot be used: " + "; ".join(str(fault).rstrip(".") for fault in faults[:5]) + more + ".",
            fix="Mend the file; region/rules/README.md says what may stand in it.",
        )


def read_rules(text: str) -> RuleFile:
    """The rules in `text`.

    Raises:
        RuleFileError: it is too long, not YAML, not of the schema, or an expression in it does not compile.
    """
    root = _composed(text)
    try:
        rules = msgspec.convert(_plain(root), RuleFile, strict=True)
    except msgspec.ValidationError as error:
        raise RuleFileError((_fault_of(error, root),)) from None
    faults = tuple(sorted(_meaning(rules, root), key=lambda fault: fault.line))
    if faults:
        raise RuleFileError(faults)
    return rules


def write_rules(rules: RuleFile) -> str:
    """`rules` as YAML that `read_rules` gives back; what has its default is left out."""
    return yaml.safe_dump(_sparse(rules), sort_keys=False, allow_unicode=True)


def _composed(text: str) -> yaml.Node:
    if len(text.encode("utf-8", "surrogatepass")) > DOCUMENT_BYTES_MAX:
        raise RuleFileError((Fault(1, f"the file is longer than {DOCUMENT_BYTES_MAX} bytes"),))
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            # An alias can make a small file into a huge tree, and a reviewer does not see what it stands for.
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise RuleFileError((Fault(line, "anchors and aliases are not allowed"),))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or str(error)
        raise RuleFileError((Fault(mark.line + 1 if mark else 1, f"not YAML: {said}"),)) from None
    except RecursionError:
        raise RuleFileError((Fault(1, "nested too deeply"),)) from None
    if not isinstance(root, yaml.MappingNode):
        raise RuleFileError((Fault(1, "a rule file is a map: format, region, slate, hard, ..."),))
    _refuse_doubles(root)
    names = {key.value for key, _ in root.value}
    if names and names <= OLD_FORM:
        raise RuleFileError((Fault(1, _how_to_migrate(root)),))
    return root


def _refuse_doubles(node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise RuleFileError((Fault(key.start_mark.line + 1, f"{key.value} stands here a second time"),))
            seen.add(key.value)
            _refuse_doubles(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_doubles(value)


def _how_to_migrate(root: yaml.Node) -> str:
    old: Any = _plain(root)
    lines = ["format: 1", "region: NAME"]
    slate = []
    if "diversity" in old:
        slate.append(f"diversity: {{strength: {old['diversity']}}}")
    if "category_share_max" in old:
        slate.append(f"category_share_max: {old['category_share_max']}")
    if slate:
        lines.append("slate: {" + ", ".join(slate) + "}")
    if old.get("withdrawn"):
        lines.append("hard: [{id: withdrawn, because: withdrawn, items: [...the same list...]}]")
    return "this is the older form, which is not read any more; write instead: " + " | ".join(lines)


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None) or node.start_mark
        raise RuleFileError((Fault(mark.line + 1, f"a value cannot be read: {error}"),)) from None
    finally:
        loader.dispose()


def _fault_of(error: msgspec.ValidationError, root: yaml.Node) -> Fault:
    said, _, where = str(error).partition(" - at `")
    steps = _STEP.findall(where)
    path: Path = tuple(name or (int(number) if number.isdigit() else 0) for name, number in steps)
    unknown = re.search(r"unknown field `([^`]+)`", said)
    node = _node_at(root, path, key=unknown[1] if unknown else None)
    name = ".".join(str(step) for step in path) or "the file"
    return Fault(node.start_mark.line + 1, f"{name}: {said}")


def _node_at(root: yaml.Node, path: Path, *, key: str | None = None) -> yaml.Node:
    """The node that `path` leads to, or the last one on the way that exists; or its child's key called `key`."""
    node = root
    for step in path:
        found = _child(node, step)
        if found is None:
            break
        node = found
    if key is not None and isinstance(node, yaml.MappingNode):
        return next((name for name, _ in node.value if name.value == key), node)
    return node


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        value: yaml.Node = node.value[step]
        return value
    return None


def _meaning(rules: RuleFile, root: yaml.Node) -> Iterator[Fault]:
    """What the schema cannot say: names once, expressions that compile, fields that go together."""
    seen: dict[str, Path] = {}
    yield from _exploration_faults(rules, root)
    for kind in _KINDS:
        for place, rule in enumerate(getattr(rules, kind)):
            path: Path = (kind, place)
            if rule.id in seen:
                yield Fault(_line(root, (*path, "id")), f"the name {rule.id} is taken")
            seen[rule.id] = path
            for word in _contradictions(kind, rule):
                yield Fault(_line(root, path), f"{rule.id}: {word}")
            for name in _EXPRESSIONS:
                source = getattr(rule, name, None)
                if source is not None:
                    yield from _compile_faults(source, name, rule.id, _line(root, (*path, name)))


def _exploration_faults(rules: RuleFile, root: yaml.Node) -> Iterator[Fault]:
    places: list[tuple[Path, SlateRules]] = [(("slate",), rules.slate)]
    places += [(("surfaces", surface.value), own) for surface, own in rules.surfaces.items()]
    for path, slate in places:
        exploration, where = slate.exploration, (*path, "exploration")
        if exploration is None:
            continue
        if exploration.new_share_min > exploration.new_share_max:
            yield Fault(_line(root, where), "exploration: new_share_min lies above new_share_max")
        if len(set(exploration.positions)) < len(exploration.positions):
            yield Fault(_line(root, where), "exploration: a position stands there twice")


def _compile_faults(source: str, name: str, rule: str, line: int) -> Iterator[Fault]:
    try:
        Condition.compile(source, scope=Scope.REQUEST if name == "when" else Scope.ITEM)
    except ConditionError as error:
        yield Fault(line, f"{rule}: {name}: {error.message}")


def _contradictions(kind: str, rule: Any) -> Iterator[str]:
    if kind in ("hard", "promotions") and not rule.items and rule.match is None:
        yield "it needs items or match"
    if isinstance(rule, Quota):
        if (rule.of is None) == (rule.match is None):
            yield "it needs either of or match"
        if (rule.share_max is None) == (rule.count_max is None):
            yield "it needs either share_max or count_max"
        if rule.values and rule.of is None:
            yield "values go with of"
    if rule.from_date and rule.until_date and rule.until_date < rule.from_date:
        yield "until_date lies before from_date"


def _line(root: yaml.Node, path: Path) -> int:
    return _node_at(root, path).start_mark.line + 1


def _sparse(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
        return {
            name: _sparse(held)
            for name, held in msgspec.structs.asdict(value).items()
            if held != defaults[name] and held not in ((), {})
        }
    if isinstance(value, dict):
        return {str(key): _sparse(held) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_sparse(held) for held in value]
    return str(value) if isinstance(value, str) else value
