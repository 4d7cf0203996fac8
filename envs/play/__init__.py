"""The play window: `Window` (pygame) shows what a `Session` in a model thread plays inside a world."""
