"""thermograd: latent space energy-based prior models, trained and measured with proven gradients."""

from thermograd.version import __version__

__all__ = ["__version__"]
