"""New adapters: what PEFT would save, counted or made."""
