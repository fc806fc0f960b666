"""Files that `torch.save` wrote, read without torch and without running anything."""
