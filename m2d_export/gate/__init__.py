"""What a variant must pass before it is published: its vectors are compared with the reference."""
