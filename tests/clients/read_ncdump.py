"""ncdump of the system's netCDF-C, with as many digits as numbers need to be read back as they were."""

import subprocess

import answers
import cdl


def read(folder, name):
    return cdl.values(cdl.run("ncdump", "-p", "9,17", "-v", name, cdl.url(folder)), name)


said = subprocess.run(["ncdump"], capture_output=True, text=True, check=False).stderr
answers.run("netCDF-C " + said.partition("library version ")[2].split()[0], read)
