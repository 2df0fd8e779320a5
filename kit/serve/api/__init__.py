"""The API: routes, what they take and answer, and what stands between them and a client."""
