# Tries to get out: there is no network, and the program decides what that means.
import socket
import sys

for address in [("192.0.2.1", 80), ("example.org", 443)]:
    try:
        socket.create_connection(address, timeout=3)
    except OSError as err:
        print(address[0], "->", err)
    else:
        sys.exit("connected to " + address[0])
