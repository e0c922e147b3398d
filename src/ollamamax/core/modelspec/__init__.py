"""Names, manifests, Modelfiles, templates, GGUF."""
