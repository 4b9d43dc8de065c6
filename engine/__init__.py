"""The messaging engine: actors, domain and the ports through which it reaches the world.

Knows nothing of HTTP, Postgres or any platform. See ARCHITECTURE.md, "Code map".
"""
