"""Spelltune as tools for agents, by the Model Context Protocol (`spelltune mcp`).

A tool is named after a command, does the same and answers with the document of its --json. The
process that serves them loads no torch: what needs a model runs in a process of its own.
"""
