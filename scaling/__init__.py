"""How the strategies compare on this machine. No framework is imported here."""
