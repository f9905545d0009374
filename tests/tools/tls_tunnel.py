#!/usr/bin/env python3
"""Lets a client without TLS talk HTTP/2 to a server that wants a client certificate.

    tls_tunnel.py PORT CERT KEY CA

Listens on a free port of 127.0.0.1, which is the first line of the output. What comes in there goes
to 127.0.0.1:PORT over TLS with ALPN h2, what comes back goes back, and the end of either is passed on.
"""

import asyncio
import ssl
import sys


async def copy(source, sink):
    """Copies until the end, or until one side is gone."""
    try:
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    except OSError:
        pass


async def serve(reader, writer, port, context):
    try:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError as error:
        print(f"no connection: {error}", file=sys.stderr)
        writer.close()
        return

    async def up():
        await copy(reader, server_writer)
        server_writer.close()

    async def down():
        await copy(server_reader, writer)
        writer.close()

    await asyncio.gather(up(), down())


async def main():
    port, certificate, key, authority = int(sys.argv[1]), *sys.argv[2:]
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    listener = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, port, context), "127.0.0.1", 0
    )
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
