"""Virtual chunk containers, as a repository's configuration lists them in either spec version."""

from collections.abc import Mapping

from vzfs.formats.icechunk.envelope import corrupt
from vzfs.model.snapshot import VirtualChunkContainer


def containers_of(config: object) -> tuple[VirtualChunkContainer, ...]:
    """Return the containers of a decoded configuration. Raises FormatError.

    A container that is invalid in itself is returned all the same, with what prefix it has: whether
    a prefix authorizes anything is decided where access is, and the user is shown why not.
    """
    if config is None:
        return ()
    if not isinstance(config, Mapping):
        raise corrupt("the repository's configuration is not a mapping")
    listed = config.get("virtual_chunk_containers")
    if listed is None:
        return ()
    if not isinstance(listed, Mapping):
        raise corrupt("the virtual chunk containers of the configuration are not a mapping")
    return tuple(_container(str(key), entry) for key, entry in listed.items())


def _container(key: str, entry: object) -> VirtualChunkContainer:
    if not isinstance(entry, Mapping):
        return VirtualChunkContainer(key)
    prefix, name = entry.get("url_prefix"), entry.get("name")
    options = _store_options(entry.get("store"))
    endpoint = options.get("endpoint_url")
    return VirtualChunkContainer(
        prefix if isinstance(prefix, str) else key,
        name if isinstance(name, str) else None,
        endpoint if isinstance(endpoint, str) else None,
        options.get("anonymous") is True,
    )


def _store_options(store: object) -> Mapping[object, object]:
    """Return what is below the store's kind: `{"s3": {...}}`. Some kinds have no options."""
    if isinstance(store, Mapping) and len(store) == 1:
        (options,) = store.values()
        if isinstance(options, Mapping):
            return options
    return {}
