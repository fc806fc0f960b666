"""Models and adapters published on the Hub, with a card."""
