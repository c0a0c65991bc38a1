"""Commands that build and run the training commands. No framework is imported here, so a login node will do."""
