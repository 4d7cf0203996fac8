"""Fireballs: what `worldsim eval` measures of *take cover* besides what it measures of every world."""

from .fireballs import Fireballs
from .growth import Growth

PROBES = (Fireballs(), Growth())
