"""A page about artifacts: how they were made, what they score, and every image; one file that needs no network."""
