"""YAML as Compose, Prometheus and Alertmanager read it, parsed by PyYAML: the extra `[stack]`."""

from typing import Any

from otel_fastperf.errors import StackError


def require_yaml() -> None:
    """Check that PyYAML is installed.

    Raises:
        StackError: It is not.
    """
    try:
        import yaml  # noqa: F401
    except ImportError:
        message = "PyYAML is not installed; stack check needs it. Remedy: pip install 'otel-fastperf[stack]'"
        raise StackError(message) from None


def parse(text: str) -> list[Any]:
    """The documents of a YAML text. Unknown tags, such as the `!override` of Compose, are ignored.

    Raises:
        ValueError: The text is not YAML; the message gives line and column.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Keeps the value of a node whose tag it does not know."""

    def untagged(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None

    Loader.add_multi_constructor("!", untagged)
    try:
        return list(yaml.load_all(text, Loader))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def document(text: str) -> Any:
    """The first document of a YAML text; None if it is empty or not YAML."""
    try:
        documents = parse(text)
    except ValueError:
        return None
    return documents[0] if documents else None


def inner(value: Any, *keys: str) -> Any:
    """The value under nested keys; None if a level is missing or is not a mapping."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
