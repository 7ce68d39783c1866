"""What stands between the network and the API: connections, who may ask, and a log that nobody can fill."""
