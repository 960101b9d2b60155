"""Whether heads fit a target, and which offset each really predicts."""
