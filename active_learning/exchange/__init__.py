"""Questions and answers of a trial in the formats of other tools, out and in."""
