import asyncio
import socket

import pytest
from gistserve.server.commands.address import AddressError, bind, url_of


def test_port_zero_takes_a_free_port_and_the_url_names_it() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert url_of(listener) == f"http://127.0.0.1:{port}"


def test_a_wildcard_address_is_shown_as_loopback() -> None:
    with bind("0.0.0.0", 0) as listener:
        assert url_of(listener).startswith("http://127.0.0.1:")


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"port {port} .* in use; .*--port"):
            bind("127.0.0.1", port)


def test_a_port_can_be_taken_again_right_after_a_server_ended() -> None:
    with bind("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        connection, _ = first.accept()
        connection.close()  # the server's side closes first and stays in TIME_WAIT
        client.close()
    bind("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "a" * 300])
def test_a_host_that_is_not_this_machine_is_refused(host: str) -> None:
    with pytest.raises(AddressError, match="--host"):
        bind(host, 0)


def test_asyncio_sends_answers_at_once_also_without_uvloop() -> None:
    async def no_delay() -> int:
        accepted = asyncio.get_running_loop().create_future()

        def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with bind("127.0.0.1", 0) as listener:
            async with await asyncio.start_server(on_connection, sock=listener):
                with socket.create_connection(listener.getsockname()):
                    return await accepted

    assert asyncio.run(no_delay())
