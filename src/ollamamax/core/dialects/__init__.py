"""Between the bytes of an API and the one ChatRequest, the one Chunk."""
