"""Float to float: every pass here changes how a model is written and leaves what it computes."""
