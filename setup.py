"""The Cython extension list; everything else about the package is in pyproject.toml.

MSTORE_KERNELS_ONLY=_lines,_ring builds just those modules (a developer's shortcut).
"""

import os
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if not (shutil.which(os.environ.get("CC", "").split(" ")[0] or "cc") or shutil.which("gcc")):
    sys.exit(
        "mstore needs a C compiler to build its kernels: install one, e.g. `apt-get install gcc libc6-dev python3-dev`"
    )

KERNELS = Path("mstore") / "kernels"
only = [name for name in os.environ.get("MSTORE_KERNELS_ONLY", "").split(",") if name]
modules = sorted(path.stem for path in KERNELS.glob("_*.pyx") if not only or path.stem in only)

# -ffp-contract=off: a fused multiply-add would make results differ between machines and from the reference twins.
flags = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wno-unused-function",
    # Debug information takes a fifth of the compiler's time and most of the files' size: MSTORE_CFLAGS=-g brings it back.
    "-g0",
]
flags += os.environ.get("MSTORE_CFLAGS", "").split()


def extension(name: str, source: str) -> Extension:
    return Extension(
        f"mstore.kernels.{name}",
        [str(KERNELS / source)],
        extra_compile_args=flags,
        extra_link_args=os.environ.get("MSTORE_LDFLAGS", "").split(),
        depends=[str(path) for path in KERNELS.glob("*.h")],
        include_dirs=[str(KERNELS)],
    )


# Cython's own code for memoryviews, once and not in each of the modules: they compile in a third of the time.
SHARED = "_shared"


def tell(line: str) -> None:
    """For scripts/setup: pip shows nothing of what happens here."""
    if path := os.environ.get("MSTORE_BUILD_PROGRESS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


class BuildKernels(build_ext):
    """build_ext that tells how far it has come."""

    n_done = 0

    def build_extension(self, ext: Extension) -> None:
        super().build_extension(ext)
        self.n_done += 1
        what = ", installing the other packages" if self.n_done == len(self.extensions) else ""
        tell(f"compiled {self.n_done} of {len(self.extensions)} kernels{what}")


tell(f"translating {len(modules)} kernels to C")
setup(
    cmdclass={"build_ext": BuildKernels},
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    ext_modules=cythonize(
        [extension(SHARED, f"{SHARED}.c"), *(extension(name, f"{name}.pyx") for name in modules)],
        shared_utility_qualified_name=f"mstore.kernels.{SHARED}",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
        nthreads=os.cpu_count() or 1 if not only else 0,
    ),
)
