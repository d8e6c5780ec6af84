"""Scores: one file per protocol, and the small maths they share."""
