"""The configuration of a spec 1 repository: `config.yaml`.

Of YAML only the tree is read: scalars stay text but for null and booleans, a tag (`!s3_compatible`)
becomes a mapping with one key, and aliases, by which a small file unfolds to a large one, are
refused. Repositories of spec 2 have none, and whoever reads those does not wait for a YAML parser.
"""

from typing import Final

import yaml

from vzfs.formats.icechunk.containers import containers_of
from vzfs.formats.icechunk.envelope import corrupt
from vzfs.model.snapshot import VirtualChunkContainer

MAX_CONFIG_SIZE: Final = 2**18
"""Bytes of a `config.yaml`: about a thousand containers."""

_MAX_NODES: Final = 14_000
"""Keys, texts, lists and mappings of a `config.yaml`, some fourteen for each container. They are what
takes time: 87 000 empty lists fit into the bytes, and take seconds."""

_MAX_DEPTH: Final = 50


def decode_config(data: bytes) -> tuple[VirtualChunkContainer, ...]:
    """Return the virtual chunk containers that a `config.yaml` declares. Raises FormatError."""
    if len(data) > MAX_CONFIG_SIZE:
        raise corrupt(f"the configuration is larger than {MAX_CONFIG_SIZE} bytes")
    try:
        loader = _TreeLoader(data)
        tree = loader.get_single_node()
    # The scanner turns digits into characters and numbers without a look at their range.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise corrupt(f"the configuration is not YAML ({type(error).__name__})") from None
    return containers_of(None if tree is None else _plain(tree))


class _TreeLoader(yaml.SafeLoader):
    """Composes nodes, so many and so deep, without aliases. Nothing is constructed from them."""

    _depth = 0
    _count = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        """Compose one node and what is below it."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise corrupt("the configuration uses YAML anchors or aliases, which are refused")
        if self._depth >= _MAX_DEPTH:
            raise corrupt(f"the configuration is nested deeper than {_MAX_DEPTH} levels")
        self._count += 1
        if self._count > _MAX_NODES:
            raise corrupt(f"the configuration has more than {_MAX_NODES} parts")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[arg-type]
        self._depth -= 1
        return node


def _plain(node: yaml.Node) -> object:
    value: object
    match node:
        case yaml.ScalarNode():
            value = _scalar(node)
        case yaml.SequenceNode():
            value = [_plain(child) for child in node.value]
        case yaml.MappingNode():
            value = {
                _text(key) if isinstance(key, yaml.ScalarNode) else str(key.tag): _plain(child)
                for key, child in node.value
            }
        case _:
            raise corrupt("the configuration has a node of unknown kind")
    return {node.tag[1:]: value} if node.tag.startswith("!") else value


def _scalar(node: yaml.ScalarNode) -> object:
    match node.tag:
        case "tag:yaml.org,2002:null":
            return None
        case "tag:yaml.org,2002:bool":
            return node.value.lower() in {"true", "yes", "on"}
        case _:
            return _text(node)


def _text(node: yaml.ScalarNode) -> str:
    """Return the text of *node*. An escape in it can name half a character, which no URL has."""
    text: str = node.value
    try:
        text.encode()
    except UnicodeEncodeError:
        raise corrupt("a text of the configuration is not Unicode") from None
    return text
