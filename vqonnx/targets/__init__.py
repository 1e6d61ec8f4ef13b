"""Tables of what devices run in integers; one device family a file. Data only."""
