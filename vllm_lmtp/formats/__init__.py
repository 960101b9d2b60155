"""What lies on disk: names, shapes, reading, refusing, and writing whole or not at all."""
