"""zarrista, the bindings of Rust's zarrs, with its own store of files."""

import importlib.metadata

import answers
import canonical
import zarrista
import zarrista.store


def read(folder, name):
    array = zarrista.Array.open(zarrista.store.FilesystemStore(folder), f"/{name}")
    return canonical.content(array[...].to_numpy())


answers.run(f"zarrista {importlib.metadata.version('zarrista')}", read)
