"""NCO: ncks copies a variable into a netCDF file, which ncdump prints."""

import subprocess
import tempfile

import answers
import cdl


def read(folder, name):
    with tempfile.TemporaryDirectory() as temporary:
        copy = f"{temporary}/copy.nc"
        cdl.run("ncks", "-4", "-O", "-h", "-C", "-v", name, cdl.url(folder), copy)
        return cdl.values(cdl.run("ncdump", "-p", "9,17", "-v", name, copy), name)


said = subprocess.run(["ncks", "--version"], capture_output=True, text=True, check=False)
answers.run("NCO " + (said.stdout + said.stderr).partition("ncks version ")[2].split()[0], read)
