"""Commands about this program itself: help, completion, what a bug report needs."""
