"""Load, save, walk and edit a model: the only room that touches files and protobuf."""
