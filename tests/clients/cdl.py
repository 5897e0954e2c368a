"""Runs the command-line tools of netCDF-C, and reads what they print."""

import array
import re
import subprocess

FILLS = {
    "byte": -127,
    "ubyte": 255,
    "short": -32767,
    "ushort": 65535,
    "int": -2147483647,
    "uint": 4294967295,
    "int64": -9223372036854775806,
    "uint64": 18446744073709551614,
    "float": 9.969209968386869e36,
    "double": 9.969209968386869e36,
}
"""What `_` stands for where a variable does not say."""

FORMS = {
    "byte": r"-?\d+b",
    "ubyte": r"\d+UB",
    "short": r"-?\d+s",
    "ushort": r"\d+US",
    "int": r"-?\d+",
    "uint": r"\d+U",
    "int64": r"-?\d+LL",
    "uint64": r"\d+ULL",
    "float": r"\S+f",
    "double": r"\S*(\.|e|NaN|Infinity)\S*(?<!f)",
}
"""How a value of each type is written."""

TYPES = {
    "byte": ("int8", "b"),
    "ubyte": ("uint8", "B"),
    "short": ("int16", "h"),
    "ushort": ("uint16", "H"),
    "int": ("int32", "i"),
    "uint": ("uint32", "I"),
    "int64": ("int64", "q"),
    "uint64": ("uint64", "Q"),
    "float": ("float32", "f"),
    "double": ("float64", "d"),
}


def run(*words):
    """Return what a program prints, or raise with the first line of what it complains of."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode < 0:
        raise ProgramCrashedError(f"signal {-done.returncode}")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(said[0] if said else f"ended with {done.returncode}")
    return done.stdout


class ProgramCrashedError(Exception):
    """A signal ended the program."""


def url(folder):
    return f"file://{folder}#mode=zarr,file"


def values(text, name):
    """Return shape, data type and bytes of the variable *name* in a CDL *text* that has its data."""
    escaped = re.escape(re.sub(r"([^A-Za-z0-9_.@+-]|^[0-9])", r"\\\1", name))
    declared = re.search(rf"^\t(\w+) {escaped}(?:\(([^)]*)\))? ;$", text, re.MULTILINE)
    if declared is None:
        raise KeyError(name)
    kind, dimensions = declared[1], [d.strip() for d in (declared[2] or "").split(",") if d]
    if kind not in TYPES:
        raise TypeError(f"{kind} is not a number")
    shape = [_length(text, dimension) for dimension in dimensions]
    dtype, code = TYPES[kind]
    number = float if code in "fd" else int
    fill = FILLS[kind]
    said = re.search(rf"^\t\t{escaped}:_FillValue = (\S+) ;$", text, re.MULTILINE)
    if said is not None and re.fullmatch(FORMS[kind], said[1]):
        fill = number(_plain(said[1]))  # of another type than the variable's, it does not count
    data = re.search(rf"^ {escaped} =([^;]*);", text[text.index("\ndata:") :], re.MULTILINE)
    if data is None:
        raise KeyError(f"no data of {name}")
    words = data[1].replace(",", " ").split()
    numbers = [fill if word == "_" else number(_plain(word)) for word in words]
    return shape, dtype, array.array(code, numbers).tobytes()


def _plain(word):
    """Strip the suffix by which CDL says a type."""
    lowered = word.lower()
    if lowered.startswith(("nan", "-nan", "inf", "-inf")):
        return lowered.removesuffix("f") if lowered.endswith("ff") or "nanf" in lowered else lowered
    return re.sub(r"(?i)(ull|ll|us|ub|u|b|s|f|l)$", "", word)


def _length(text, dimension):
    escaped = re.escape(dimension)
    found = re.search(rf"^\t{escaped} = (?:UNLIMITED ; // \()?(\d+)", text, re.MULTILINE)
    if found is None:
        raise KeyError(dimension)
    return int(found[1])
