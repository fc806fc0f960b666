"""The leading singular triplets of a weight, and PEFT's factors of them."""
