"""The ASGI application: routes, middleware, error table, streaming, admin API."""
