"""zarr-python, version 2 or 3; with a third argument `zarrs`, its codec pipeline of Rust."""

import functools
import sys
import warnings

import answers
import canonical
import zarr

warnings.simplefilter("ignore")
version = f"zarr {zarr.__version__}"
if sys.argv[3:] == ["zarrs"]:
    import zarrs

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    version += f", zarrs {zarrs.__version__}"


@functools.cache
def group_at(folder):
    return zarr.open_group(folder, mode="r")


answers.run(version, lambda folder, name: canonical.content(group_at(folder)[name][...]))
