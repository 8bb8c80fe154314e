"""Temperatures and what is drawn along them: schedules, quadrature, the ladder, its diagnostics."""
