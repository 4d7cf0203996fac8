"""The trained worlds that ship: a folder each, with config, weights and card."""
