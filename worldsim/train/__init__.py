"""Time-budgeted, resumable training of the models."""
