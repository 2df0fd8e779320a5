"""Docker and Compose: images, and the runtime that starts the server in a container."""
