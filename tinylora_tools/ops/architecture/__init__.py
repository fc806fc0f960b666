"""A model class described from the installed transformers: what the data on families hold, for one that they lack."""
