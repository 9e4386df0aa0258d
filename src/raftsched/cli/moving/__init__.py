"""Jobs that move: out of other people's stores, into running ones, into files."""
