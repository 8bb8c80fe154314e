"""Markov chains over latents: kernels, replica exchange, the ladder of temperatures, diagnostics."""
