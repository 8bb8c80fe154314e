"""thermograd: latent space energy-based prior models, trained and measured with proven gradients."""

__version__ = "0.1.0"
