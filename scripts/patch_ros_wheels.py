"""Point the CMake exports of the ROS 2 wheels at this interpreter.

The wheels name the include folders of the image they were built in; this replaces them, once, by the folders of the
Python that runs the script and of its numpy.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILD_PYTHON = re.compile(r"/opt/python/cp[\w-]+/include/python[\d.]+")
BUILD_NUMPY = re.compile(r"/opt/python/cp[\w-]+/lib/python[\d.]+/site-packages/numpy/_?core/include")

patched = 0
for path in Path(sys.prefix, "share").glob("*/cmake/*.cmake"):
    before = path.read_text()
    after = BUILD_NUMPY.sub(numpy.get_include(), BUILD_PYTHON.sub(sysconfig.get_paths()["include"], before))
    if after != before:
        path.write_text(after)
        patched += 1
print(f"patched {patched} CMake exports")
