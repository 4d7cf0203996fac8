"""Neural networks of a world: tokenizer, dynamics, and the layers they are made of."""
