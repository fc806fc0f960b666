"""Other projects' adapters, opened as PEFT's."""
