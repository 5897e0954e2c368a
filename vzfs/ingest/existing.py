"""A snapshot of any repository as references known whole: what is joined, appended to or copied."""

import numpy as np

from vzfs.access import Access
from vzfs.errors import VzfsError
from vzfs.joining.columns import Merger
from vzfs.model.manifest import ChunkKind, Manifest, StringTable, narrow
from vzfs.model.references import Omission, References, array_id, whole
from vzfs.model.snapshot import Array, Group, Node
from vzfs.repository import Checkout


async def references_of(checkout: Checkout, access: Access | None = None) -> References:
    """Return all nodes and refs of a snapshot. Raises the VzfsError for which a manifest cannot be loaded.

    With *access*, refs are absolute: to objects of the repository too, as anybody may refer to them.
    What is left out of it is what the repository leaves out, and arrays whose chunks have no names.
    """
    nodes: list[Node] = []
    manifests: dict[bytes, Manifest] = {}
    omissions = list(checkout.repository.omissions)
    for node in checkout.snapshot.nodes:
        if isinstance(node, Group):
            nodes.append(node)
        elif node.problem:
            omissions.append(Omission(node.path, node.problem))
        else:
            name = array_id(node.path)
            nodes.append(_renamed(node))
            manifest = await _manifest(checkout, node)
            manifests[name] = manifest if access is None else _absolute(manifest, access)
    if not nodes or nodes[0].path != "/":
        document = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
        nodes.insert(0, Group(path="/", documents={"zarr.json": document}))
    return References(tuple(nodes), manifests, tuple(omissions))


def _renamed(array: Array) -> Array:
    return Array(
        path=array.path,
        documents=array.documents,
        id=array_id(array.path),
        grid=array.grid,
        key_encoding=array.key_encoding,
        manifests=whole(array.path, array.grid),
        shard_index=array.shard_index,
        originals=array.originals,
    )


async def _manifest(checkout: Checkout, array: Array) -> Manifest:
    refs = checkout.refs(array)
    await refs.load(())
    manifests = refs.manifests()
    if len(manifests) == 1:
        return manifests[0]
    merger = Merger()
    for manifest in manifests:
        merger.add(manifest, manifest.indices(0, len(manifest)))
    return merger.build()


def _absolute(manifest: Manifest, access: Access) -> Manifest:
    """Return *manifest* with the URLs of all objects; native chunks become virtual ones."""
    native = manifest.kind == ChunkKind.NATIVE
    of_repository = set(np.unique(manifest.location[native]).tolist())
    locations = [
        str(access.repository.join(text)) if i in of_repository else _resolved(text, access)
        for i, text in enumerate(manifest.locations)
    ]
    return Manifest(
        index=manifest.index,
        kind=narrow(np.where(native, np.uint8(ChunkKind.VIRTUAL), manifest.kind)),
        location=manifest.location,
        offset=manifest.offset,
        length=manifest.length,
        checksum=manifest.checksum,
        locations=StringTable.of(locations),
        checksums=manifest.checksums,
        inline=manifest.inline,
    )


def _resolved(text: str, access: Access) -> str:
    try:
        return str(access.resolve(text))
    except VzfsError:
        return text
