"""Steps computed ahead of time, in the idle time of whoever asks for them; they never change what a step gives."""

from worldsim.speculation.settings import Propose, Speculation
from worldsim.speculation.speculator import Speculator
from worldsim.speculation.stats import SpeculationStats

__all__ = ["Propose", "Speculation", "SpeculationStats", "Speculator"]
