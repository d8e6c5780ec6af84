"""Pictures for people: palettes, overlays and contact sheets."""
