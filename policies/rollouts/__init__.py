"""Rollouts past one process: the same work in this process, in local processes, or in actors of a Ray cluster.

Work is cut into tasks (episodes, or groups of them, by seed) that depend on nothing but themselves, and what comes of
them comes in their order: results are the same bytes for any number of workers, wherever these are.
"""

from worldsim.policies.rollouts.base import InProcess, Job, Opened, Rollouts, Workers, make_rollouts, one_thread

__all__ = ["InProcess", "Job", "Opened", "Rollouts", "Workers", "make_rollouts", "one_thread"]
