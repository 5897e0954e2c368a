"""Starting at once: what is left out while modules are imported."""

import contextlib
import gc
import os
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import in this block, and do not look for garbage meanwhile, of which there is none.

    What was imported stays, so it is not looked through later either. Nothing here does linear algebra,
    for which numpy would start threads that spin.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
