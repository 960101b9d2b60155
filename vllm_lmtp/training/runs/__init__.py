"""The kinds of training run, and what each says about itself."""
