"""What several commands share: words, output, and where results go."""
