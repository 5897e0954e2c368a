"""The readers of the matrix: what they are called, how they are started, and what they are asked.

Each is a program of this folder in an environment of its own; see `answers.py` for what it says.
`project` is the environment of the project itself.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Client(NamedTuple):
    """A reader.

    *formats* are the Zarr formats that it knows. Of those that may damage their own memory, every
    group is read by a process *apart*.
    """

    name: str
    title: str
    environment: str
    program: str
    options: tuple[str, ...] = ()
    formats: tuple[int, ...] = (2, 3)
    apart: bool = False


CLIENTS = (
    Client("zarr", "zarr-python 3", "python", "read_zarr.py"),
    Client("zarr2", "zarr-python 2", "zarr2", "read_zarr.py", formats=(2,)),
    Client("xarray", "xarray", "python", "read_xarray.py"),
    Client("dask", "dask", "python", "read_dask.py"),
    Client("zarrs", "zarr-python 3 with zarrs", "python", "read_zarr.py", ("zarrs",)),
    Client("zarrista", "zarrista", "python", "read_zarrista.py"),
    Client("tensorstore", "TensorStore", "python", "read_tensorstore.py"),
    Client("z5py", "z5py", "python", "read_z5py.py"),
    Client("gdal36", "GDAL of Debian 12", "debian", "read_gdal.py", formats=(2,)),
    Client("gdal312", "GDAL of the rasterio wheel", "python", "read_gdal.py"),
    Client("ncdump", "netCDF-C of Debian 12: ncdump", "debian", "read_ncdump.py", formats=(2,)),
    Client("ncks", "NCO: ncks", "debian", "read_ncks.py", formats=(2,)),
    Client("cdo", "CDO", "debian", "read_cdo.py", formats=(2,)),
    Client(
        *("netcdf4", "netCDF-C of the netCDF4 wheel", "python", "read_netcdf4.py"),
        formats=(2,),
        apart=True,
    ),
    Client("zarrita", "zarrita.js", "node", "read_zarrita.mjs"),
    Client("zarrjs", "zarr.js", "node", "read_zarrjs.mjs", formats=(2,)),
)

SAMPLE = (
    Client("zarr", "zarr-python 3", "project", "read_zarr.py"),
    Client("xarray", "xarray", "project", "read_xarray.py"),
    Client("tensorstore", "TensorStore", "project", "read_tensorstore.py"),
)
"""Those that are in the environment of the project."""

PROGRAMS = {"ncdump": "ncdump", "ncks": "ncks", "cdo": "cdo", "gdal36": "gdalinfo"}


class LackingError(Exception):
    """A client is not installed, and why that is so."""


def install() -> Path:
    """Install what can be installed, and return the folder of the environments."""
    done = subprocess.run([HERE / "install"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1])


def python_of(folder: Path, environment: str) -> Path:
    """Return the interpreter of an environment. Raises LackingError."""
    path = folder / environment / "bin" / "python"
    if not (folder / environment / "installed").exists():
        raise LackingError(f"the environment {environment} is not installed")
    return path


def words(client: Client, folder: Path, root: str, zarr_format: int) -> list[str]:
    """Return the command that starts a client on the view at *root*. Raises LackingError."""
    if client.environment == "node":
        return [*_node(folder, client), root, str(zarr_format), *client.options]
    if client.environment == "project":
        python = sys.executable
    elif client.environment == "debian":
        python = shutil.which("python3", path="/usr/bin:/bin")
        if shutil.which(PROGRAMS[client.name]) is None or python is None:
            raise LackingError(f"{PROGRAMS[client.name]} is not installed")
    else:
        python = os.fspath(python_of(folder, client.environment))
    options = client.options
    if client.program == "read_gdal.py":
        options = (_gdal(client, folder),)
    return [python, os.fspath(HERE / client.program), root, str(zarr_format), *options]


def _node(folder: Path, client: Client) -> list[str]:
    """Modules are found beside the program that asks for them, so programs lie beside modules."""
    node = shutil.which("node")
    if node is None or not (folder / "node" / "installed").exists():
        raise LackingError("the JavaScript packages are not installed")
    for name in ("answers.mjs", client.program):
        content = (HERE / name).read_bytes()
        copy = folder / "node" / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.write_bytes(content)
    return [node, os.fspath(folder / "node" / client.program)]


def _gdal(client: Client, folder: Path) -> str:
    """Return the path of the library."""
    if client.name == "gdal36":
        for parent in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"):
            for path in sorted(Path(parent).glob("libgdal.so.*")):
                return os.fspath(path)
        raise LackingError("the system's libgdal is not there")
    for path in sorted(
        (folder / client.environment).glob("lib/*/site-packages/rasterio.libs/libgdal*")
    ):
        return os.fspath(path)
    raise LackingError("the rasterio wheel has no libgdal")
