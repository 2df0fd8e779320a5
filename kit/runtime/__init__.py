"""What runs a server and how it is talked to: the protocol, the local process, the HTTP client."""
