"""Which pixels to ask about, who answers, and where the answers are kept."""
