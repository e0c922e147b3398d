"""One command of `ollamamax` per file. Heavy imports stand inside the functions, so that help is quick."""
