"""How images are kept and decoded: files, packs, memory."""
