"""Panels of what models say of an image; no models, no figures."""
