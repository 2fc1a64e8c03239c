"""Floor 4: maps from recordings and from COLMAP models."""

from robust_loc.mapping.builder import MapBuilder, MappingConfig

__all__ = ["MapBuilder", "MappingConfig"]
