"""Files other programs read and write: palette PNGs in and out."""
