"""What meets the shell: commands in groups, their help, completion, and how messages are worded."""
