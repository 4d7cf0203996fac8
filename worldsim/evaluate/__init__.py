"""Measurements of a world against real episodes it was not trained on."""
