"""How fast worlds step."""
