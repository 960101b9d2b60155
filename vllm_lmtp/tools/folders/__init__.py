"""From one checkpoint folder to another: merge, export, convert, choose."""
