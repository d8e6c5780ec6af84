"""Speed as ratios to a reference measured in the same process, each behind an equality gate."""
