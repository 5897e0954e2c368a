"""CDO, which shows the variables of a grid, not its coordinates, as numbers that are unpacked.

The digest is that of float64 numbers after scale and offset, NaN where CDO has missing values.
"""

import array
import functools
import subprocess

import answers
import cdl

MISSING = -9e33
CLOSE = 1e-6
"""How far from that the missing value of a float32 field may be."""
NAN = float("nan")


@functools.cache
def names_at(folder):
    return cdl.run("cdo", "-s", "showname", cdl.url(folder)).split()


def read(folder, name):
    if name not in names_at(folder):
        raise answers.NotShownError(name)
    printed = cdl.run(
        *("cdo", "-s", "-b", "F64", "-outputf,%.17g,1", f"-setmissval,{MISSING}"),
        *(f"-selname,{name}", cdl.url(folder)),
    )
    numbers = [float(word) for word in printed.split()]
    content = [number if abs(number / MISSING - 1) > CLOSE else NAN for number in numbers]
    return [len(content)], "unpacked", array.array("d", content).tobytes()


said = subprocess.run(["cdo", "--version"], capture_output=True, text=True, check=False)
version = (said.stdout + said.stderr).partition("version ")[2].split()[0]
answers.run(f"CDO {version}", read)
