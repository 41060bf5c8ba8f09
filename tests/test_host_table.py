"""docs/hosts.md says of every host what is found here."""

import pytest

from tests.host_table import DOCS, HOSTS, NO, Host, check, line

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_docs_say_what_is_found(host: Host) -> None:
    cells = check(host)
    assert NO not in cells
    assert line(host, cells) in DOCS.read_text(), "python -m benchmarks.hosts writes it anew"
