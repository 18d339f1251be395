"""The parent of a node's processes, behind `boathouse up`.

It starts them all at once, restarts what dies, stops them in order, and answers the command line on a unix
socket. It holds no data: when it is killed, its children see their stdin end and stop by themselves.

Its imports stay light, because nothing starts before it has."""
