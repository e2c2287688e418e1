"""Labelling by a person, in a browser: questions and leases, pictures, server, page."""
