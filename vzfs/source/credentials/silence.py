"""Keeping the libraries that know secrets from talking about them.

They log requests, replies and what programs print, some of it as warnings with tracebacks. What
matters of it is in our errors, which name the class of a problem and never its text.
"""

import logging
import warnings
from typing import Final

_NEVER: Final = logging.CRITICAL + 1


def silence(*libraries: str) -> None:
    """Let none of *libraries* log or warn from now on, whatever the level of the log is."""
    for library in libraries:
        logging.getLogger(library).setLevel(_NEVER)
        warnings.filterwarnings("ignore", module=rf"{library}\b")
