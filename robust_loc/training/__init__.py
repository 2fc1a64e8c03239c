"""Training of the networks: clips, losses, loops and checkpoints."""
