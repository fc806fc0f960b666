"""What is known of models without loading them: the data on families, and what an architecture answers from them."""
