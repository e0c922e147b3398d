"""The section `state`: etcd, where the cluster's state is spread over several nodes."""

from ollamamax.settings.knobs import Addresses, Section, knob


class State(Section):
    """What the cluster agreed on, where `ollamamax cluster ha enable` puts it. See [cluster.md](cluster.md)."""

    etcd_path: str = knob(
        "",
        "The etcd program that this node runs when it holds the state with others.",
        why="Packages put it on PATH; elsewhere somebody has to say where it is.",
        default_text="the first one on PATH",
    )
    endpoints: Addresses = knob(
        (),
        "Addresses (host:port) of an etcd that others run, for `ollamamax cluster ha enable --external`.",
        why="Where an etcd is looked after already, a second one is a second thing to look after.",
    )
    ca: str = knob(
        "",
        "File (PEM) with the authority that signed that etcd's certificates; empty: no TLS.",
        why="What answers there is believed all that it says of the cluster.",
    )
    certificate: str = knob(
        "",
        "File (PEM) with this node's certificate for that etcd.",
        why="An etcd that asks for certificates lets nobody else in.",
    )
    key: str = knob(
        "",
        "File (PEM) with the key of that certificate.",
        why="It is read anew for each connection, so that renewed ones are taken over.",
    )
