"""The modules of the shipped world's probes, which lie in its folder and not in a package of their own."""

import importlib

from worldsim.evaluate.probes import probes_of_source

SOURCE = "doom-take-cover"
PACKAGE = type(probes_of_source(SOURCE)[0]).__module__.rpartition(".")[0]
blobs, tracks, fireballs, growth = (
    importlib.import_module(f"{PACKAGE}.{name}") for name in ("blobs", "tracks", "fireballs", "growth")
)
