"""A plugin of mypy: a message's field without a residency class does not pass the type check.

`infra.contracts.residency` refuses such a class when it is defined; this says so before anything runs. A type checker
does not see the class itself (it is an annotation), so the field's own words are looked at: `Device[...]`,
`Regional[...]` or `Global[...]`, or `Annotated[...]`, which the definition then looks into.
"""

from collections.abc import Callable
from typing import Final

from mypy.nodes import AssignmentStmt, NameExpr, TypeInfo
from mypy.plugin import ClassDefContext, Plugin
from mypy.types import Type, UnboundType

_CLASSED: Final = "infra.contracts.residency._Classed"
_WORDS: Final = frozenset({"Device", "Regional", "Global", "Annotated", "ClassVar"})


class ResidencyPlugin(Plugin):
    """Looks at every class that has a message among its ancestors."""

    def get_base_class_hook(self, fullname: str) -> Callable[[ClassDefContext], None] | None:
        """For classes whose base is a message."""
        found = self.lookup_fully_qualified(fullname)
        node = found.node if found is not None else None
        is_message = isinstance(node, TypeInfo) and any(info.fullname == _CLASSED for info in node.mro)
        return _check_fields if is_message else None


def _check_fields(context: ClassDefContext) -> None:
    for statement in context.cls.defs.body:
        if not isinstance(statement, AssignmentStmt) or statement.unanalyzed_type is None:
            continue
        (target, *_) = statement.lvalues
        if isinstance(target, NameExpr) and not _has_class(statement.unanalyzed_type):
            context.api.fail(
                f'field "{target.name}" of "{context.cls.name}" carries no residency class; annotate it as '
                "Device[...], Regional[...] or Global[...]",
                statement,
            )


def _has_class(annotation: Type) -> bool:
    return isinstance(annotation, UnboundType) and annotation.name.rpartition(".")[2] in _WORDS


def plugin(_version: str) -> type[Plugin]:
    """What mypy asks for."""
    return ResidencyPlugin
