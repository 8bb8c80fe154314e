"""Models: the latent energy-based prior model and twins with exact answers."""
