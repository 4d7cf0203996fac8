"""Agents and the policies that record data."""
