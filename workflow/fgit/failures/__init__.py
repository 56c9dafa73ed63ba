"""How far failing programs are from passing ones (sections I and IV)."""
