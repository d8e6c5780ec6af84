"""What every long command does, once: work list, shards, resume, coverage, signals, progress."""
