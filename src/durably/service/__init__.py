"""Authorise, validate, route: one short function per RPC, named after the RPC."""
