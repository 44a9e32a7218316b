"""The only loop: decide → perform → journal → apply."""
