"""The reason why SQLAlchemy runs a statement: a lazy load, a batch of an eager load, a flush, a page.

It is read from the execution context, which needs no further event: the ORM passes its options on to it, with the
instance of a lazy load (`ORMExecuteState.lazy_loaded_from`) and the path of the loader
(`ORMExecuteState.loader_strategy_path`). If these are not found, the statement counts as the application's own.
"""

import re
from enum import StrEnum
from typing import Any, Final, NamedTuple

#: a statement with at least this limit, or with an offset, reads a page of a list
_PAGE: Final = 20
#: a statement with at least this many values reads or changes a batch
_BATCH: Final = 10
_IN: Final = re.compile(r"\bIN\s*+\(|\bANY\s*+\(", re.IGNORECASE)
#: most instances of a session that are asked whether they hold another one; most relationships on a way
_MOST_INSTANCES: Final = 500
_MOST_STEPS: Final = 4
#: most attributes that are named
_MOST_NAMES: Final = 3


class LoadKind(StrEnum):
    """The purpose of a statement."""

    #: a query of the application
    QUERY = "query"
    #: loads the relationship of one instance: at first access, by `immediateload` or by `refresh()`
    LAZY = "lazy"
    #: loads attributes of an existing instance; see `Missing`
    REFRESH = "refresh"
    #: a batch of `selectinload` or `subqueryload`
    EAGER = "eager"
    #: a page of a list, or a batch of the application's own: `IN` with many values
    PAGE = "page"
    #: writes the changes of a session
    FLUSH = "flush"
    #: an `executemany`, or a statement that neither reads nor writes rows
    OTHER = "other"


#: loads that can be an N+1: one statement per item
ONE_BY_ONE: Final = frozenset({LoadKind.QUERY, LoadKind.LAZY, LoadKind.REFRESH})


class Missing(StrEnum):
    """Why attributes of an existing instance had to be loaded.

    Attributes:
        EXPIRED: The whole instance has expired: by a commit, a rollback, or `expire()`.
        DEFERRED: They are deferred, by their mapping or by `defer()` or `load_only()`.
        SUBCLASS: They are columns of a subclass, in a table that the query did not read.
        COMPUTED: The database computed them in a flush.
        REFRESHED: The application called `refresh()`.
    """

    EXPIRED = "expired"
    DEFERRED = "deferred"
    SUBCLASS = "subclass"
    COMPUTED = "computed"
    REFRESHED = "refreshed"


class PathStep(NamedTuple):
    """A relationship on the way from a query's class to the one that is loaded."""

    entity: str
    attribute: str
    #: the relationship is a collection
    many: bool
    #: it leads to instances of its own class
    recursive: bool = False
    #: the subclass that the next relationship belongs to, if this one leads to the base
    of_type: str = ""


class Load(NamedTuple):
    """The purpose of a statement, and what it loads. All have few values."""

    kind: LoadKind
    #: the mapped class that is read; for a relationship, the class that has it
    entity: str = ""
    #: the relationship
    attribute: str = ""
    #: the relationship is a collection
    many: bool = False
    #: the relationships by which the query's instances lead to those of `entity`
    path: tuple[PathStep, ...] = ()
    #: the relationship leads to instances of its own class
    recursive: bool = False
    #: why attributes are loaded
    missing: Missing | None = None
    #: these attributes
    names: tuple[str, ...] = ()
    #: for columns or a relationship of a subclass, the class at the top of the hierarchy
    base: str = ""
    #: the session expires its instances when it commits
    expires: bool = True


OTHER: Final = Load(LoadKind.OTHER)


def load_of(execution: Any) -> Load:
    """The purpose of the statement of this execution context."""
    statement = getattr(execution, "invoked_statement", None)
    options = execution.execution_options.get("_sa_orm_load_options")
    if options is None:
        # a mapper has its own cache of compiled statements
        flush = execution.execution_options.get("compiled_cache") is not None
        return Load(LoadKind.FLUSH if flush else _own(statement, execution))
    path = getattr(getattr(statement, "_compile_options", None), "_current_path", None)
    state = getattr(options, "_lazy_loaded_from", None)
    if state is not None:
        return _relationship(path, state)
    if path:
        return Load(LoadKind.EAGER)
    refreshed = getattr(options, "_refresh_state", None)
    if refreshed is not None:
        return _refresh(refreshed, options, statement)
    return Load(_own(statement, execution), _entity(statement))


def loaded_class(execution: Any) -> str:
    """The mapped class whose instances a SELECT returns; "" if it returns plain rows."""
    descriptions = getattr(getattr(execution, "invoked_statement", None), "column_descriptions", None) or ()
    for each in descriptions:
        entity = each.get("entity")
        if entity is not None and each.get("expr") is entity:
            return str(getattr(getattr(entity, "__mapper__", entity), "class_", entity).__name__)
    return ""


def _relationship(path: Any, state: Any) -> Load:
    if not path:
        return Load(LoadKind.LAZY)
    relationships = [each for each in path.path if hasattr(each, "uselist")]
    if len(relationships) == 1:
        # without options on the query, SQLAlchemy does not keep how it came to the instance
        relationships = [*_way_to(state), *relationships]
    last = relationships[-1]
    mapper = last.parent
    return Load(
        LoadKind.LAZY,
        mapper.class_.__name__,
        last.key,
        bool(last.uselist),
        tuple(map(_step, relationships, relationships[1:])),
        _is_recursive(last),
        base="" if mapper.inherits is None else mapper.base_mapper.class_.__name__,
    )


def _step(relationship: Any, following: Any) -> PathStep:
    mapper = following.parent
    narrower = mapper is not relationship.mapper and mapper.isa(relationship.mapper)
    return PathStep(
        relationship.parent.class_.__name__,
        relationship.key,
        bool(relationship.uselist),
        _is_recursive(relationship),
        mapper.class_.__name__ if narrower else "",
    )


def _is_recursive(relationship: Any) -> bool:
    return relationship.mapper.base_mapper is relationship.parent.base_mapper


def _way_to(state: Any) -> list[Any]:
    """The relationships that led to an instance: those by which others in its session hold it."""
    relationships: list[Any] = []
    seen = {id(state)}
    session = state.session
    others = [] if session is None else session.identity_map.all_states()[:_MOST_INSTANCES]
    while len(relationships) < _MOST_STEPS and (held := _holder(state, others)) is not None:
        relationship, state = held
        if id(state) in seen:
            break
        seen.add(id(state))
        relationships.insert(0, relationship)
    return relationships


def _holder(state: Any, others: list[Any]) -> tuple[Any, Any] | None:
    """A loaded relationship that has the instance, and the state of the instance with that relationship.

    Two instances that have each other do not tell which of them came first.
    """
    instance = state.obj()
    known: dict[Any, list[Any]] = {}
    for other in others:
        mapper = other.mapper
        relationships = known.get(mapper)
        if relationships is None:
            relationships = known[mapper] = [each for each in mapper.relationships if state.mapper.isa(each.mapper)]
        for relationship in relationships:
            if not _has(other.dict.get(relationship.key), instance):
                continue
            backward = getattr(relationship, "_reverse_property", ())
            if not any(_has(state.dict.get(back.key), other.obj()) for back in backward):
                return relationship, other
    return None


def _has(value: Any, instance: Any) -> bool:
    if value is instance or value is None:
        return value is not None
    each = value.values() if isinstance(value, dict) else value
    return isinstance(value, list | set | tuple | dict) and any(one is instance for one in each)


def _refresh(state: Any, options: Any, statement: Any) -> Load:
    mapper = state.mapper
    names = tuple(sorted(getattr(getattr(statement, "_compile_options", None), "_only_load_props", None) or ()))
    expired = getattr(state, "expired_attributes", ())
    if getattr(options, "_is_user_refresh", False):
        missing = Missing.REFRESHED
    elif state.expired or not names:
        missing, names = Missing.EXPIRED, ()
    elif not any(name in expired for name in names):
        missing = Missing.DEFERRED
    elif mapper.inherits is not None and all(_is_of_subclass(mapper, name) for name in names):
        missing = Missing.SUBCLASS
    elif any(_is_computed(mapper, name) for name in names):
        missing = Missing.COMPUTED
    else:
        missing = Missing.EXPIRED
    return Load(
        LoadKind.REFRESH,
        mapper.class_.__name__,
        missing=missing,
        names=names[:_MOST_NAMES],
        base=mapper.base_mapper.class_.__name__ if missing is Missing.SUBCLASS else "",
        expires=bool(getattr(state.session, "expire_on_commit", True)),
    )


def _is_of_subclass(mapper: Any, name: str) -> bool:
    return name in mapper.columns and mapper.columns[name].table is not mapper.base_mapper.local_table


def _is_computed(mapper: Any, name: str) -> bool:
    column = mapper.columns.get(name)
    sources = ("server_default", "server_onupdate", "onupdate", "computed")
    return column is not None and any(getattr(column, source, None) is not None for source in sources)


def _entity(statement: Any) -> str:
    subject = getattr(statement, "_propagate_attrs", {}).get("plugin_subject")
    mapper = getattr(subject, "mapper", None)
    return "" if mapper is None else str(mapper.class_.__name__)


def _own(statement: Any, execution: Any) -> LoadKind:
    if _is_batch(execution):
        return LoadKind.PAGE
    limit = getattr(getattr(statement, "_limit_clause", None), "value", None)
    if not isinstance(limit, int) or limit <= 1:
        return LoadKind.QUERY
    # an N+1 can have a small limit and no offset, such as the newest three of each item
    pages = limit >= _PAGE or getattr(statement, "_offset_clause", None) is not None
    return LoadKind.PAGE if pages else LoadKind.QUERY


def _is_batch(execution: Any) -> bool:
    """True if a SELECT compares with many values at once, as a list of an IN or as an array."""
    if not getattr(getattr(execution, "compiled", None), "isinsert", False):
        for parameters in (execution.parameters or ())[:1]:
            values = tuple(parameters.values() if isinstance(parameters, dict) else parameters)
            arrays = (len(value) for value in values if isinstance(value, list | tuple))
            return max((len(values), *arrays)) >= _BATCH and _IN.search(execution.statement or "") is not None
    return False
