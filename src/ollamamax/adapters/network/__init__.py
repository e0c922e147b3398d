"""Other nodes: the peer listener, links to it, soft state by zenoh."""
