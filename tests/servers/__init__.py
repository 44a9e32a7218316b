"""Servers for tests: real sockets on loopback, behaviour from a script."""
