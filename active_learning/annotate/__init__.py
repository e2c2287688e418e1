"""Labelling by a person, in a browser: the queue of questions, the pictures, the server, the page."""
