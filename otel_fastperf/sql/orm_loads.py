"""Why a statement runs, as SQLAlchemy itself knows it: a lazy load, a batch of an eager one, a flush, a page.

Read from the statement's execution context, without an event of its own: the ORM hands its options on to it, with the
instance a lazy load comes from (`ORMExecuteState.lazy_loaded_from`) and the path of the loader
(`ORMExecuteState.loader_strategy_path`). What is not where it is looked for makes a statement one of the application's
own.
"""

from enum import StrEnum
from typing import Any, Final, NamedTuple

#: a statement with a limit of so many rows, or with an offset, reads the page of a list
_PAGE: Final = 20


class LoadKind(StrEnum):
    """What a statement is for."""

    #: the application asked for it
    QUERY = "query"
    #: one instance's relationship is loaded by itself: at first access, by `immediateload` or by `refresh()`
    LAZY = "lazy"
    #: attributes of an instance that is there already: expired ones, deferred ones, `refresh()`
    REFRESH = "refresh"
    #: a batch of `selectinload` or `subqueryload`
    EAGER = "eager"
    #: the next part of a list
    PAGE = "page"
    #: the session writes what has changed
    FLUSH = "flush"
    #: an `executemany`, or a statement that neither reads nor writes rows
    OTHER = "other"


#: what may be an N+1: one statement for each of many things
ONE_BY_ONE: Final = frozenset({LoadKind.QUERY, LoadKind.LAZY, LoadKind.REFRESH})


class Load(NamedTuple):
    """What a statement is for, and whose. Names of classes and attributes, of few values."""

    kind: LoadKind
    #: the mapped class that is read; for a relationship the class that has it
    entity: str = ""
    #: the relationship
    attribute: str = ""
    #: the relationship is a collection
    many: bool = False


OTHER: Final = Load(LoadKind.OTHER)


def load_of(execution: Any) -> Load:
    """What the statement of this execution context is for."""
    statement = getattr(execution, "invoked_statement", None)
    options = execution.execution_options.get("_sa_orm_load_options")
    if options is None:
        # a mapper's own cache of compiled statements
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
    # the newest three of each of many things are read with a small limit and no offset
    pages = limit >= _PAGE or getattr(statement, "_offset_clause", None) is not None
    return LoadKind.PAGE if pages else LoadKind.QUERY
