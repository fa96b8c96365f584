"""The reason why SQLAlchemy runs a statement: a lazy load, a batch of an eager load, a flush, a page.

It is read from the execution context, which needs no further event: the ORM passes its options on to it, with the
instance of a lazy load (`ORMExecuteState.lazy_loaded_from`) and the path of the loader
(`ORMExecuteState.loader_strategy_path`). If these are not found, the statement counts as the application's own.
"""

from enum import StrEnum
from typing import Any, Final, NamedTuple

#: a statement with at least this limit, or with an offset, reads a page of a list
_PAGE: Final = 20


class LoadKind(StrEnum):
    """The purpose of a statement."""

    #: a query of the application
    QUERY = "query"
    #: loads the relationship of one instance: at first access, by `immediateload` or by `refresh()`
    LAZY = "lazy"
    #: loads attributes of an existing instance: expired ones, deferred ones, `refresh()`
    REFRESH = "refresh"
    #: a batch of `selectinload` or `subqueryload`
    EAGER = "eager"
    #: a page of a list
    PAGE = "page"
    #: writes the changes of a session
    FLUSH = "flush"
    #: an `executemany`, or a statement that neither reads nor writes rows
    OTHER = "other"


#: loads that can be an N+1: one statement per item
ONE_BY_ONE: Final = frozenset({LoadKind.QUERY, LoadKind.LAZY, LoadKind.REFRESH})


class Load(NamedTuple):
    """The purpose of a statement, and the class and attribute that it loads. All have few values."""

    kind: LoadKind
    #: the mapped class that is read; for a relationship, the class that has it
    entity: str = ""
    #: the relationship
    attribute: str = ""
    #: the relationship is a collection
    many: bool = False


OTHER: Final = Load(LoadKind.OTHER)


def load_of(execution: Any) -> Load:
    """The purpose of the statement of this execution context."""
    statement = getattr(execution, "invoked_statement", None)
    options = execution.execution_options.get("_sa_orm_load_options")
    if options is None:
        # a mapper has its own cache of compiled statements
        flush = execution.execution_options.get("compiled_cache") is not None
        return Load(LoadKind.FLUSH if flush else _own(statement))
    path = getattr(getattr(statement, "_compile_options", None), "_current_path", None)
    if getattr(options, "_lazy_loaded_from", None) is not None:
        return _relationship(path)
    if path:
        return Load(LoadKind.EAGER)
    refreshed = getattr(options, "_refresh_state", None) is not None
    return Load(LoadKind.REFRESH if refreshed else _own(statement), _entity(statement))


def _relationship(path: Any) -> Load:
    if not path:
        return Load(LoadKind.LAZY)
    relationship = path.path[-1]
    return Load(LoadKind.LAZY, relationship.parent.class_.__name__, relationship.key, bool(relationship.uselist))


def _entity(statement: Any) -> str:
    subject = getattr(statement, "_propagate_attrs", {}).get("plugin_subject")
    mapper = getattr(subject, "mapper", None)
    return "" if mapper is None else str(mapper.class_.__name__)


def _own(statement: Any) -> LoadKind:
    limit = getattr(getattr(statement, "_limit_clause", None), "value", None)
    if not isinstance(limit, int) or limit <= 1:
        return LoadKind.QUERY
    # an N+1 can have a small limit and no offset, such as the newest three of each item
    pages = limit >= _PAGE or getattr(statement, "_offset_clause", None) is not None
    return LoadKind.PAGE if pages else LoadKind.QUERY
