"""One page of Markdown for each kind of result, made from its JSON alone."""
