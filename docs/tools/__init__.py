"""Tables and pictures of the pages, made from the registry and from committed results."""
