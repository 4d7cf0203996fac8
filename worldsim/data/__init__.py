"""Episodes: recorded, imported, read, and as latents and clips to train on."""
