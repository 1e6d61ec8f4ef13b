"""The report: what became of the model, as data, as text and as JSON."""
