"""The reaper: a short-lived process that ends, on the server, the connections of processes that are gone."""
