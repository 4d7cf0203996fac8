"""The `worldsim` command line: one module a command."""
